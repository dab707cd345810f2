#!/bin/sh
# Debian's busybox 1.35 crashes when wget gets -T, Alpine's does not. The same limit by another tool,
# with the exit code of any failure of wget.
limit=900
taken=
for word; do
    shift
    if [ -n "$taken" ]; then
        limit=$word
        taken=
        continue
    fi
    case $word in
        -T | --timeout) taken=yes ;;
        -T*) limit=${word#-T} ;;
        --timeout=*) limit=${word#*=} ;;
        *) set -- "$@" "$word" ;;
    esac
done
timeout "$limit" /bin/busybox wget "$@" || exit 1
