#!/bin/bash
# Does the package install, run and purge cleanly on a bare Debian, and its service under a systemd that was booted there (booted.sh)?
# In a root of its own, made here and removed again.
#   sudo bash deploy/debian/try.sh [PACKAGE.deb]     (build it first: sh deploy/debian/build.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."
package=${1:-$(ls -t target/debian/spiked_*.deb 2>/dev/null | head -n 1)}
skip() { echo "skipped: deploy/debian/try.sh: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip 'a Debian root can only be made by root'
command -v debootstrap >/dev/null || skip 'debootstrap is not installed'
[ -f "$package" ] || { echo "no package: sh deploy/debian/build.sh builds it" >&2; exit 2; }

root=$(mktemp -d)
# As / is everywhere: its users are not only root.
chmod 755 "$root"
trap 'rm -rf --one-file-system "$root"' EXIT
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
timeout 400 debootstrap --variant=minbase "$release" "$root" >"$root.log" 2>&1 || { tail -n 5 "$root.log"; rm -f "$root.log"; skip 'debootstrap got no Debian'; }
rm -f "$root.log"
cp "$package" "$root/spiked.deb"
cp fixtures/captures/mixed.pcapng "$root/mixed.pcapng"
fail() { echo "$1" >&2; exit 1; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
apt() {
  local log
  log=$(inside timeout 300 apt-get "$1" -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${@:2}" 2>&1) || fail "apt-get $*: $log"
}

before=$(inside sh -c "find / -xdev -not -path '/proc/*' -not -path '/var/*' | sort")
apt install ./spiked.deb
inside spiked --version | grep -q '^spiked ' || fail 'spiked --version says nothing'
inside spiked read /mixed.pcapng | grep -q '^dns ' || fail 'spiked read names nothing'
inside test -x /usr/bin/spiked -a -f /etc/spiked/spiked.toml -a -f /usr/share/spiked/models/devices.safetensors
inside test -f /usr/lib/systemd/system/spiked.service -o -f /lib/systemd/system/spiked.service || fail 'the unit is missing'
[ "$(inside stat -c '%U %a' /var/log/spiked)" = 'spiked 750' ] || fail '/var/log/spiked is not the daemon'"'"'s'
inside spiked check --config /etc/spiked/spiked.toml >/dev/null 2>&1 || fail 'the shipped settings are refused'
echo '# mine' >>"$root/etc/spiked/spiked.toml"
# Once more, as an upgrade does: settings that were changed stay.
inside dpkg -i --force-confold /spiked.deb >/dev/null 2>&1
grep -q '^# mine' "$root/etc/spiked/spiked.toml" || fail 'the upgrade took the settings away'
apt purge spiked
apt autoremove --purge
inside test ! -e /etc/spiked -a ! -e /var/log/spiked -a ! -e /var/lib/spiked -a ! -e /usr/share/spiked || fail 'the purge left something'
! inside getent passwd spiked >/dev/null || fail 'the purge left the user'
after=$(inside sh -c "find / -xdev -not -path '/proc/*' -not -path '/var/*' | sort")
left=$(comm -13 <(echo "$before") <(echo "$after") | grep -v -e '^/etc/\(passwd\|group\|shadow\|gshadow\|subuid\|subgid\)-$' -e '/ld.so.cache' -e '__pycache__' || true)
[ -z "$left" ] || fail "the purge left $left"
echo "$(basename "$package") installs, runs, upgrades and purges on a bare Debian $release"

command -v systemd-nspawn >/dev/null || skip 'its service was not tried: systemd-nspawn (systemd-container) is not installed'
apt install systemd systemd-sysv dbus logrotate iproute2 ./spiked.deb
version=$(inside systemctl --version | awk 'NR == 1 { print $2 }')
cp deploy/debian/booted.sh "$root/booted.sh"
cat >"$root/etc/systemd/system/booted.service" <<UNIT
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /booted.sh
StandardOutput=file:/booted.log
StandardError=file:/booted.log
ExecStopPost=/bin/sh -c 'echo \$EXIT_STATUS >/booted.code; systemctl --no-block poweroff'
[Install]
WantedBy=default.target
UNIT
inside systemctl -q enable booted.service
# Landlock's calls are not among those that nspawn lets pass by itself.
timeout --kill-after=10 180 systemd-nspawn --quiet --directory="$root" --boot --private-network --register=no --keep-unit \
  --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' </dev/null >"$root/console" 2>&1 || true
[ -e "$root/booted.code" ] || ! grep -q 'Reached target' "$root/console" || { tail -n 20 "$root/console"; fail 'the booted Debian hangs'; }
[ -e "$root/booted.code" ] || { tail -n 3 "$root/console"; skip 'its service was not tried: no Debian can be booted here'; }
cat "$root/booted.log"
[ "$(cat "$root/booted.code")" = 0 ] || fail "the service does not do what is promised under systemd $version"
echo "its service does what is promised under systemd $version"
