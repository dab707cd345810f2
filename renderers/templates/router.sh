#!/bin/sh
# Starts nginx, and applies changes of its configuration and of the map of the models without a restart.
#
#   /etc/nginx/deployment/nginx.conf   conf/bundle/nginx.conf of the deployment directory, read only
#   /etc/nginx/bundle/models           the map that model_download writes when the files of the models are there
#   /etc/nginx/bundle/pinned.SERVICE   the container that gets the calls of SERVICE while update.sh replaces it
#   /etc/nginx/bundle/models.map       the map that nginx.conf includes, made of these
#   /etc/nginx/bundle/accepted.conf    the last nginx.conf that nginx accepted
set -u

deployment=${DEPLOYMENT:-/etc/nginx/deployment}
bundle=${BUNDLE:-/etc/nginx/bundle}
nginx=${NGINX:-/etc/nginx}
nameservers=${NAMESERVERS:-/etc/resolv.conf}
alive=${ALIVE:-/tmp/watching}

log() {
    printf 'router: %s\n' "$*" >&2
}

# Prints a digest of everything that nginx reads.
fingerprint() {
    cat "$deployment"/*.conf "$bundle/models" "$bundle"/pinned.* 2>/dev/null | sha256sum
}

# Makes models.map. A pinned service is replaced by its container. Fails, and keeps the previous one, if the disk is full.
make_map() {
    if [ ! -e "$bundle/models" ]; then
        [ -e "$bundle/models.map" ] || : >"$bundle/models.map"
        return
    fi
    cp "$bundle/models" "$bundle/map.new" || return 1
    for pin in "$bundle"/pinned.*; do
        if [ -e "$pin" ]; then
            sed "s/ ${pin##*/pinned.}:.*/ $(cat "$pin");/" "$bundle/map.new" >"$bundle/map.pinned" &&
                mv "$bundle/map.pinned" "$bundle/map.new" || return 1
        fi
    done
    mv "$bundle/map.new" "$bundle/models.map"
}

# Makes a configuration of file $1. Podman's DNS, for example, is at another address than Docker's.
resolved() {
    # nginx takes no address with a zone, such as fe80::1%eth0.
    nameserver=$(sed -n '/%/d; s/^nameserver[[:space:]]*//p' "$nameservers" | head -n 1)
    case $nameserver in
        *:*) nameserver="[$nameserver]" ;;
    esac
    sed "s/^\([[:space:]]*resolver[[:space:]].*\)127\.0\.0\.11\([^0-9]\)/\1${nameserver:-127.0.0.11}\2/" "$1"
}

# Puts the configuration of file $1 into its place if nginx accepts it.
accept() {
    resolved "$1" >"$nginx/candidate.conf" || return 1
    if nginx -t -q -c "$nginx/candidate.conf"; then
        mv "$nginx/candidate.conf" "$nginx/nginx.conf"
    else
        return 1
    fi
}

# Applies what the deployment has. A refused configuration is reported, and the previous one stays.
apply() {
    suffix='' is_stale=''
    make_map || {
        log 'the map of the models cannot be written, and the previous one is used: is the disk full?'
        is_stale=yes
    }
    [ -e "$deployment/nginx.conf" ] || log 'conf/bundle/nginx.conf is missing: copy it from /example/conf/bundle'
    # The copy is tested: the file itself may be edited between the test and the copy.
    if cp "$deployment/nginx.conf" "$bundle/accepted.new" && accept "$bundle/accepted.new"; then
        mv "$bundle/accepted.new" "$bundle/accepted.conf"
    elif [ -e "$bundle/accepted.conf" ] && accept "$bundle/accepted.conf"; then
        log 'conf/bundle/nginx.conf is refused; the last accepted one is used until it is corrected'
        suffix=', with the last accepted nginx.conf'
    else
        log 'conf/bundle/nginx.conf is refused: correct it'
        return 1
    fi
}

# Reloads nginx, which is process $1, at each change.
watch() {
    # A signal that arrives before nginx handles it is lost, and a map may be written at any time.
    until grep -q 'master process' "/proc/$1/cmdline"; do
        sleep 1
    done
    while sleep 1; do
        : >"$alive"
        now=$(fingerprint)
        if [ -n "$is_stale" ]; then
            sleep 30
            applied=
        fi
        if [ "$now" != "$applied" ]; then
            applied=$now
            if apply && kill -HUP "$1"; then
                log "the map and the configuration are applied$suffix"
                # nginx answers a signal at once, but it does not report when it has.
                sleep 1
                echo "$applied" >"$alive.applied"
            fi
        fi
    done
}

# Waits until nginx uses what the files say, and its former workers have ended. A stream may keep those for long, so
# this waits at most 15 seconds. Fails if nginx does not use the files by then.
settle() {
    waited=0
    while [ "$waited" -lt 15 ]; do
        waited=$((waited + 1))
        sleep 1
        if [ "$(cat "$alive.applied")" = "$(fingerprint)" ] &&
            ! grep -lq 'shutting down' /proc/[0-9]*/cmdline 2>/dev/null; then
            return 0
        fi
    done
    [ "$(cat "$alive.applied")" = "$(fingerprint)" ]
}

# update.sh calls these in the running container: pin SERVICE CONTAINER:PORT, unpin SERVICE.
case ${1:-} in
    pin)
        echo "$3" >"$bundle/new.$2" && mv "$bundle/new.$2" "$bundle/pinned.$2" && settle
        exit
        ;;
    unpin)
        rm -f "$bundle/pinned.$2" && settle
        exit
        ;;
esac

applied=$(fingerprint)
apply || exit 1
echo "$applied" >"$alive.applied"
: >"$alive"
watch $$ &
exec nginx -g 'daemon off;'
