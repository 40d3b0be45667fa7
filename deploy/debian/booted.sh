#!/bin/bash
# Does the service do under systemd what its unit and the operator's page promise? Run by try.sh as a unit of a booted Debian root:
# start, status, reload, rotation, a crash, a hang, settings that are wrong, stop. Prints a line on each; fails at the first that is not so.
set -euo pipefail
fail() { echo "FAILED: $1"; systemctl status --no-pager -l spiked || true; journalctl -u spiked --no-pager -n 40 || true; exit 1; }
told() { grep -q "$1" <<<"$(journalctl -u spiked --no-pager)"; }
show() { systemctl show --value -p "$1" spiked; }
until_so() { local what=$1; shift; for _ in $(seq 150); do if "$@"; then return; fi; sleep 0.1; done; fail "$what"; }
good=/etc/spiked/spiked.toml

ip link add name a type veth peer name b
ip link set dev a up; ip link set dev b up
sed -i 's/^name = "eth0"/name = "b"/' "$good"

systemctl start spiked || fail 'it does not start'
pid=$(show MainPID)
[ "$(show User)" = spiked ] && [ "$(stat -c %U "/proc/$pid")" = spiked ] || fail 'it is not the user spiked'
grep -q '^CapEff:\s*0000000000002000$' "/proc/$pid/status" || fail "it has other capabilities than NET_RAW: $(grep CapEff "/proc/$pid/status")"
case $(show StatusText) in '1 of 1 inputs up'*) ;; *) fail "its status line is '$(show StatusText)'" ;; esac
told 'capabilities: all dropped but CAP_NET_RAW' || fail 'dropped capabilities are not told'
told 'landlock: only the folders' || fail 'landlock is not told'
echo "starts as user spiked with CAP_NET_RAW alone, and says: $(show StatusText)"

systemctl reload spiked || fail 'systemctl reload fails'
until_so 'no reload is in the log' told 'reloaded: models protocols'
spiked reload >/dev/null || fail 'spiked reload fails'
echo 'mistake = 1' >"$good.wrong" && cat "$good" >>"$good.wrong" && cp "$good" "$good.good" && cp "$good.wrong" "$good"
if systemctl reload spiked 2>/dev/null; then fail 'systemctl reload takes wrong settings'; fi
[ "$(show ActiveState)" = active ] && [ "$(show MainPID)" = "$pid" ] || fail 'wrong settings stopped it'
cp "$good.good" "$good"
echo 'reloads; refuses wrong settings and runs on'

file=/var/log/spiked/eve.json
open_file() { [ "$(stat -L -c %i "/proc/$pid/fd/"* 2>/dev/null | grep -c "^$(stat -c %i "$file")$")" = 1 ]; }
echo '{}' >>"$file"
logrotate --force /etc/logrotate.d/spiked || fail 'logrotate fails'
[ -s "$file.1" ] || fail 'nothing was rotated'
until_so 'the new file is not written to' open_file
[ "$(stat -c '%U %a' "$file")" = 'spiked 640' ] || fail "the new file is $(stat -c '%U %a' "$file")"
echo 'logrotate moves the events away, and the daemon opens the new file'

kill -9 "$pid"
until_so 'it is not started again after a crash' sh -c '[ "$(systemctl show --value -p NRestarts spiked)" = 1 ] && systemctl -q is-active spiked'
mkdir -p /run/systemd/system/spiked.service.d
printf '[Service]\nWatchdogSec=2\n' >/run/systemd/system/spiked.service.d/quick.conf
systemctl daemon-reload && systemctl restart spiked
pid=$(show MainPID)
sleep 5
[ "$(show MainPID)" = "$pid" ] || fail 'the watchdog is not fed'
kill -STOP "$pid"
until_so 'the watchdog does not start it again' sh -c "[ \"\$(systemctl show --value -p MainPID spiked)\" != $pid ] && systemctl -q is-active spiked"
told 'Watchdog timeout' || fail 'systemd tells of no watchdog'
echo 'after a crash and after a hang systemd starts it again'

systemctl stop spiked
[ "$(show Result)" = success ] && [ "$(show ExecMainStatus)" = 0 ] || fail "it stops with $(show Result), $(show ExecMainStatus)"
cp "$good.wrong" "$good"
if systemctl start spiked 2>/dev/null; then fail 'it starts with wrong settings'; fi
sleep 5
[ "$(show ActiveState)" = failed ] && [ "$(show ExecMainStatus)" = 2 ] && [ "$(show NRestarts)" = 0 ] ||
  fail "wrong settings: $(show ActiveState), code $(show ExecMainStatus), $(show NRestarts) restarts"
told 'unknown key `mistake`' || fail 'the mistake is not in the journal'
echo 'stops with code 0; wrong settings are said in the journal, and it is left alone'

systemd-analyze verify --man=no spiked.service || fail 'the unit is not clean'
systemd-analyze security --threshold=15 spiked.service | tail -n 1 || fail "it is more exposed than 1.5"
