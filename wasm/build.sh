#!/bin/sh
# Builds the kernel crate three times into pkg/: relaxed SIMD with threads, SIMD128 with threads, SIMD128 alone.
#
#   wasm/build.sh [variant...]
#
# Only whoever changes the kernels needs this: pkg/ is committed.
# It wants cargo and rustc with the standard library's source (std is rebuilt with atomics), lld and wasm-pack:
#   rustup toolchain install nightly --component rust-src --target wasm32-unknown-unknown
#   or on Debian: apt-get install rustc-web cargo-web rust-web-src lld
#   and: cargo install wasm-pack --locked
set -eu
cd "$(dirname "$0")"

fail() {
  echo "build.sh: $1" >&2
  sed -n '6,9s/^# \{0,1\}//p' build.sh >&2
  exit 77 # "cannot be tried here", as automake has it
}

has_std_source() { [ -d "$("$1" --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std" ]; }

# The first rustc with the source of std: the one in PATH, else the distribution's.
if command -v rustc >/dev/null && has_std_source rustc; then :
elif [ -x /usr/bin/rustc ] && has_std_source /usr/bin/rustc; then PATH="/usr/bin:$PATH"
else fail "no rustc here has the standard library's source (rust-src)"
fi
sysroot=$(rustc --print sysroot)
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v wasm-pack >/dev/null || fail "wasm-pack is not installed"

# A distribution's lld is called wasm-ld, rustup's is found by rustc itself.
if ! command -v rust-lld >/dev/null && ! ls "$sysroot"/lib/rustlib/*/bin/rust-lld >/dev/null 2>&1; then
  command -v wasm-ld >/dev/null || fail "neither rust-lld nor wasm-ld is installed"
  export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld
fi
# wasm-pack asks only whether this folder exists; with build-std nothing in it is used.
libs="$sysroot/lib/rustlib/wasm32-unknown-unknown/lib"
[ -d "$libs" ] || mkdir -p "$libs" 2>/dev/null || fail "wasm-pack wants the folder $libs: create it"

export RUSTC_BOOTSTRAP=1 # build-std and wasm assembly are unstable

# No path of this machine goes into the binary: the same source gives the same bytes everywhere.
paths="--remap-path-prefix=$PWD=/hearth/wasm --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo
  --remap-path-prefix=$sysroot=/rust -Zlocation-detail=none"
shared="-Ctarget-feature=+atomics -Clink-arg=--shared-memory
  -Clink-arg=--export=__wasm_init_tls -Clink-arg=--export=__tls_size -Clink-arg=--export=__tls_align
  -Clink-arg=--export=__tls_base"
common="-Ctarget-feature=+bulk-memory,+mutable-globals,+simd128 -Clink-arg=--max-memory=4294967296
  -Clink-arg=--import-memory $paths"

build() {
  case $1 in
    relaxed-threads) flags="$common $shared -Ctarget-feature=+relaxed-simd" ;;
    simd128-threads) flags="$common $shared" ;;
    simd128) flags="$common" ;;
    *) fail "no variant is called $1" ;;
  esac
  # Not RUSTFLAGS: wasm-pack also builds a tool for this machine. A folder for each variant, since flags differ.
  CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="$(echo $flags)" CARGO_TARGET_DIR="$PWD/target/$1" \
    wasm-pack build --target web --release --no-pack --out-dir "pkg/$1" --out-name kernels
  rm -f "pkg/$1/.gitignore" "pkg/$1/README.md" "pkg/$1/LICENSE"
}

[ $# -gt 0 ] || set -- relaxed-threads simd128-threads simd128
for variant; do build "$variant"; done
rustc -vV >pkg/RUSTC
ls -l pkg/*/*.wasm
