#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of loader/ on another kernel, under qemu without acceleration:
#   test/kernels/run.sh /path/to/vmlinuz
# The tests are the init of the machine; their last line says how they ended.
set -euo pipefail
kernel=$1
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir"/root/{proc,sys,dev,tmp,testdata}
CGO_ENABLED=0 go test -c -o "$dir/root/loader.test" ./loader
CGO_ENABLED=0 go build -o "$dir/root/init" ./test/kernels/init
cp -r loader/testdata/. "$dir/root/testdata/"
(cd "$dir/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/initrd"
timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg -cpu max -m 1G -nographic -no-reboot -nic none \
	-kernel "$kernel" -initrd "$dir/initrd" -append "console=ttyS0 panic=-1 quiet" | tee "$dir/log"
grep -q '^KERNEL TESTS PASS' "$dir/log"
