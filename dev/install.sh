#!/bin/sh
# install.sh PACKAGE MODULE DESTDIR REDIS_MODULE_DIR: copies the built extension to where Postgres looks for it and
# the module beside other Redis modules. Each file is written under a new name and renamed: a server that has the
# old library mapped keeps it, and would crash if the file changed under it.
set -eu
package=$1 module=$2 destination=$3 module_dir=$4

place() { # place SOURCE TARGET MODE
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2.new$$"
    chmod "$3" "$2.new$$"
    mv -f "$2.new$$" "$2"
    echo "installed $2"
}

(cd "$package" && find . -type f) | sort | while read -r file; do
    case $file in
        *.so) mode=755 ;;
        *) mode=644 ;;
    esac
    place "$package/$file" "$destination/${file#./}" "$mode"
done
place "$module" "$destination$module_dir/tandem.so" 755

cat <<TEXT
Next, in postgresql.conf:   shared_preload_libraries = 'tandem'    (restart), then   CREATE EXTENSION tandem;
and in redis.conf:          loadmodule $module_dir/tandem.so       (restart)
TEXT
