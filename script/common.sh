# shellcheck shell=bash
# shellcheck disable=SC2034 # variables are for the script that sources this
# What script/run, script/test and script/lint share: packages, the build, the cache.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${TRAPEZE_BUILD:-$root/build}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trapeze

build_packages=(gcc meson ninja-build pkg-config libzydis-dev libzycore-dev liblz4-dev liblzma-dev
	libzstd-dev zlib1g-dev libjansson-dev liburing-dev
	libslirp-dev libext2fs-dev comerr-dev)
guest_packages=(cpio)

say() {
	printf '%s\n' "$*" >&2
}

die() {
	say "${0##*/}: $*"
	exit 1
}

# Runs a command quietly; shows what it printed only if it fails.
quietly() {
	local log rc=0

	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || rc=$?
	[ $rc -eq 0 ] || cat "$log" >&2
	rm -f "$log"
	return $rc
}

has_apt() {
	command -v apt-get >/dev/null && command -v dpkg-query >/dev/null
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "this needs root, and there is no sudo: $*"
	fi
}

apt_get() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@"
}

# The packages among the arguments that are not installed.
missing_packages() {
	local installed p

	# Status 1 only means that some are unknown.
	installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
	for p in "$@"; do
		grep -qxF "installed $p" <<<"$installed" || printf '%s\n' "$p"
	done
}

install_packages() {
	local missing

	has_apt || return 0
	mapfile -t missing < <(missing_packages "$@")
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
		die "these packages are missing, and there is no sudo to install them: ${missing[*]}"
	fi
	say "Installing ${missing[*]} ..."
	apt_get install --no-install-recommends "${missing[@]}" >/dev/null 2>&1 </dev/null &&
		return 0
	# A machine that never ran "apt-get update" knows no packages, or only old ones.
	quietly apt_get update || true
	quietly apt_get install --no-install-recommends "${missing[@]}" ||
		die "apt-get could not install ${missing[*]}"
}

# On distributions without apt: what somebody has to provide.
check_foreign() {
	local tool

	for tool in gcc meson ninja pkg-config cpio; do
		command -v "$tool" >/dev/null && continue
		die "this is not Debian, so please install by hand: gcc, meson, ninja, pkg-config," \
			"cpio, and the development files of zydis 4, zycore, lz4, lzma, zstd," \
			"zlib, jansson, liburing, libslirp and libext2fs ($tool is missing)"
	done
}

# build_trapeze TESTS [TARGET]...: TESTS is true or false, whether the tests belong to the build
build_trapeze() {
	local tests=$1

	shift
	if has_apt; then
		install_packages "${build_packages[@]}"
	else
		check_foreign
	fi
	if [ ! -e "$build/build.ninja" ]; then
		say "Configuring $build ..."
		quietly meson setup "$build" "$root" -Dtests="$tests" || die "meson setup failed"
	elif $tests; then
		quietly meson configure "$build" -Dtests=true || die "meson configure failed"
	fi
	[ "$(ninja -C "$build" -n "${@:-all}" | tail -n 1)" = "ninja: no work to do." ] && return
	say "Building ..."
	quietly ninja -C "$build" "${@:-all}" || die "the build failed"
}
