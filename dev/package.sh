#!/bin/sh
# package.sh PACKAGE MODULE VERSION TARGET_DIR: one tar.gz with everything a user installs.
set -eu
package=$1 module=$2 version=$3 target=$4
name="tandem-$version-pg15-redis7-$(uname -m)"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

mkdir -p "$stage/$name/redis"
cp -r "$package" "$stage/$name/postgres"
cp "$module" "$stage/$name/redis/tandem.so"
cp README.md LICENSE "$stage/$name/"
strip --strip-debug "$stage/$name/redis/tandem.so" $(find "$stage/$name/postgres" -name '*.so')
tar -C "$stage" --owner=0 --group=0 -czf "$target/$name.tar.gz" "$name"
echo "$target/$name.tar.gz"
