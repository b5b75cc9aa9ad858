#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of loader/ and dataplane/ on other kernels, under qemu without
# acceleration:
#   test/kernels/run.sh 6.1 6.12
#   ARGS=-test.run=TestFence test/kernels/run.sh 6.1
# The kernels are Debian's cloud kernels of those series. The tests run in a
# machine whose init is ./init.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root"/{proc,sys,dev,tmp,testdata,tests,modules}
for package in loader cmd/internal/dataplane; do
	CGO_ENABLED=0 go test -c -o "$root/tests/$(basename $package)" "./$package"
done
CGO_ENABLED=0 go build -o "$root/init" ./test/kernels/init
cp -r loader/testdata/. "$root/testdata/"
for series in "$@"; do
	package=$(apt-cache search --names-only "^linux-image-${series//./\\.}\..*-cloud-amd64\$" | cut -d' ' -f1 | sort -V | tail -1)
	(cd "$dir" && apt-get download -q "$package" && dpkg-deb -x "$package"_*.deb "$series")
	# What the tests need, and is not in the kernel itself.
	rm -f "$root"/modules/*
	for module in veth sch_ingress cls_bpf; do
		cp "$(find "$dir/$series" -name "$module.ko*")" "$root/modules/"
	done
	find "$root/modules" -name '*.xz' -exec xz -d {} +
	(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/initrd"
	echo "== $package"
	timeout "${LIMIT:-600}" qemu-system-x86_64 -accel tcg -cpu max -m 1G -nographic -no-reboot -nic none \
		-kernel "$dir/$series"/boot/vmlinuz-* -initrd "$dir/initrd" \
		-append "console=ttyS0 panic=-1 quiet -- ${ARGS:-}" >"$dir/log" 2>&1 || true
	grep -aE '^(KERNEL|--- |    --- (FAIL|SKIP))' "$dir/log" || true
	grep -aq '^KERNEL TESTS PASS' "$dir/log" || { cat "$dir/log"; exit 1; }
done
