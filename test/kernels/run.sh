#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of loader/ on other kernels, under qemu without acceleration:
#   test/kernels/run.sh 6.1 6.12
# The kernels are Debian's cloud kernels of those series. The tests run as the
# second process of a machine whose init is ./init.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir"/root/{proc,sys,dev,tmp,testdata}
CGO_ENABLED=0 go test -c -o "$dir/root/loader.test" ./loader
CGO_ENABLED=0 go build -o "$dir/root/init" ./test/kernels/init
cp -r loader/testdata/. "$dir/root/testdata/"
(cd "$dir/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/initrd"
for series in "$@"; do
	package=$(apt-cache search --names-only "^linux-image-${series//./\\.}\..*-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -1)
	(cd "$dir" && apt-get download -q "$package" && dpkg-deb -x "$package"_*.deb "$series")
	echo "== $package"
	timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg -cpu max -m 1G -nographic -no-reboot -nic none \
		-kernel "$dir/$series"/boot/vmlinuz-* -initrd "$dir/initrd" \
		-append "console=ttyS0 panic=-1 quiet" >"$dir/log" 2>&1 || true
	grep -aE '^(KERNEL|--- |    --- (FAIL|SKIP))|filter_test.go|Error:' "$dir/log" || true
	grep -aq '^KERNEL TESTS PASS' "$dir/log" || exit 1
done
