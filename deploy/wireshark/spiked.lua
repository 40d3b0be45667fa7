-- Wireshark post-dissector for the captures that `spiked read --write OUT.pcapng` and the daemon's evidence folder hold.
--
-- Input: packet comments, like "ssh, confidence 0.987, model protocols"; a packet has one for each model.
-- Output: the fields spiked.class (string), spiked.confidence (0 to 1) and spiked.model (string), for filters and columns.
--
-- Install: copy this file to the folder that Wireshark names under Help > About Wireshark > Folders > Personal Lua Plugins,
-- often ~/.local/lib/wireshark/plugins. For one run: wireshark -X lua_script:spiked.lua OUT.pcapng
--
-- Columns: right-click the field in the packet's details > Apply as Column; or Edit > Preferences > Columns > +, type Custom, fields
-- spiked.class and spiked.confidence. In tshark: -T fields -e frame.number -e spiked.class -e spiked.confidence
--
-- Filters: spiked.class == "ssh", spiked.confidence < 0.9, spiked (all packets with a class).

local spiked = Proto("spiked", "spiked classification")

local class = ProtoField.string("spiked.class", "Class", base.UNICODE, "Class of the packet's stream")
local confidence = ProtoField.float("spiked.confidence", "Confidence", "Calibrated probability that the class is right")
local model = ProtoField.string("spiked.model", "Model", base.UNICODE, "Model that classified the stream")
spiked.fields = { class, confidence, model }

local comment = Field.new("frame.comment")

-- Class names may hold commas: the last ", confidence NUMBER, model " separates.
local PATTERN = "^(.*), confidence (%d+%.%d+), model (.*)$"

function spiked.dissector(buffer, pinfo, tree)
  for _, info in ipairs({ comment() }) do
    local name, number, by = tostring(info.value):match(PATTERN)
    if name then
      local branch = tree:add(spiked, buffer(0, 0)):append_text(": " .. name .. ", confidence " .. number)
      branch:add(class, name):set_generated()
      branch:add(confidence, tonumber(number)):set_generated()
      branch:add(model, by):set_generated()
    end
  end
end

register_postdissector(spiked)
