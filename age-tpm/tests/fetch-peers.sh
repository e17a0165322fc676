#!/bin/sh
# Fetches the programs that the interoperability tests compare with: the Go age-plugin-tpm and a
# newer age, both from Debian sid, unpacked into the user's cache folder and never installed. They
# run on Debian 12's libc. With --rage it also builds rage 0.12.1 from its crate, which takes minutes.
# Prints the variables that the tests read.
set -eu

with="${1-}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/seed/age-peers"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mirror="${SEED_DEBIAN_MIRROR:-http://deb.debian.org/debian}"

if [ ! -x "$cache/root/usr/bin/age-plugin-tpm" ] || [ ! -x "$cache/root/usr/bin/age" ]; then
    # A private apt: own sources, lists and cache, so the machine's own packages stay as they are.
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial" "$cache/debs"
    echo "deb [signed-by=$keyring] $mirror sid main" > "$cache/apt/sources.list"
    : > "$cache/apt/status"
    set -- -o Dir::Etc::SourceList="$cache/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" \
        -o Dir::State::status="$cache/apt/status" -o APT::Sandbox::User=root
    apt-get -q "$@" update >&2
    (cd "$cache/debs" && apt-get -q "$@" download age-plugin-tpm age >&2)
    rm -rf "$cache/root"
    for deb in "$cache"/debs/*.deb; do
        dpkg-deb -x "$deb" "$cache/root"
    done
    rm -rf "$cache/apt"
fi

if [ "$with" = --rage ] && [ ! -x "$cache/bin/rage" ]; then
    cargo install --quiet --locked --root "$cache" --target-dir "$cache/build" rage --version 0.12.1 >&2
    rm -rf "$cache/build"
fi

echo "SEED_GO_AGE_PLUGIN_TPM=$cache/root/usr/bin/age-plugin-tpm"
echo "SEED_AGE13=$cache/root/usr/bin/age"
if [ -x "$cache/bin/rage" ]; then
    echo "SEED_RAGE=$cache/bin/rage"
fi
