#!/bin/bash
# Does the package install, run and purge cleanly on a bare Debian? In a root of its own, made here and removed again.
#   sudo bash deploy/debian/try.sh [PACKAGE.deb]     (build it first: sh deploy/debian/build.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."
package=${1:-$(ls -t target/debian/spiked_*.deb 2>/dev/null | head -n 1)}
skip() { echo "skipped: deploy/debian/try.sh: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip 'a Debian root can only be made by root'
command -v debootstrap >/dev/null || skip 'debootstrap is not installed'
[ -f "$package" ] || { echo "no package: sh deploy/debian/build.sh builds it" >&2; exit 2; }

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
timeout 400 debootstrap --variant=minbase "$release" "$root" >"$root.log" 2>&1 || { tail -n 5 "$root.log"; rm -f "$root.log"; skip 'debootstrap got no Debian'; }
rm -f "$root.log"
cp "$package" "$root/spiked.deb"
cp fixtures/captures/mixed.pcapng "$root/mixed.pcapng"
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }
fail() { echo "$1" >&2; exit 1; }

before=$(inside sh -c "find / -xdev -not -path '/proc/*' -not -path '/var/*' | sort")
timeout 300 chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends ./spiked.deb >/dev/null
inside spiked read /mixed.pcapng | grep -q '^dns ' || fail 'spiked read names nothing'
inside test -x /usr/bin/spiked -a -f /etc/spiked/spiked.toml -a -f /usr/share/spiked/models/devices.safetensors
inside test -f /usr/lib/systemd/system/spiked.service -o -f /lib/systemd/system/spiked.service || fail 'the unit is missing'
[ "$(inside stat -c '%U %a' /var/log/spiked)" = 'spiked 750' ] || fail '/var/log/spiked is not the daemon'"'"'s'
inside spiked check --config /etc/spiked/spiked.toml || fail 'the shipped settings are refused'
echo '# mine' >>"$root/etc/spiked/spiked.toml"
# Once more, as an upgrade does: settings that were changed stay.
inside dpkg -i --force-confold /spiked.deb >/dev/null
grep -q '^# mine' "$root/etc/spiked/spiked.toml" || fail 'the upgrade took the settings away'
inside apt-get purge -y -qq spiked >/dev/null
inside apt-get autoremove --purge -y -qq >/dev/null
inside test ! -e /etc/spiked -a ! -e /var/log/spiked -a ! -e /var/lib/spiked -a ! -e /usr/share/spiked || fail 'the purge left something'
! inside getent passwd spiked >/dev/null || fail 'the purge left the user'
after=$(inside sh -c "find / -xdev -not -path '/proc/*' -not -path '/var/*' | sort")
left=$(comm -13 <(echo "$before") <(echo "$after") | grep -v -e '^/etc/\(passwd\|group\|shadow\|gshadow\|subuid\|subgid\)-$' -e '/ld.so.cache' -e '__pycache__' || true)
[ -z "$left" ] || fail "the purge left $left"
echo "$(basename "$package") installs, runs, upgrades and purges on a bare Debian $release"
