# Reduces the tables of `spiked features` to the reference of the harm check: of each class and fold the first STREAMS streams, of each
# stream the first PACKETS packets. Output: number of the stream, class, slot values.
FNR == 1 { file++ }
FNR == 1 && file > 1 { next }
FNR > 1 {
  id = file " " $1
  if (id != last) { last = id; packets = 0; kept = ++streams[file, $2, $3] <= STREAMS; if (kept) number++ }
  if (!kept || ++packets > PACKETS) next
  $1 = number
}
{ line = $1 FS $2; for (i = 4; i <= NF; i++) line = line FS $i; print line }
