#!/bin/sh
# Brings every model of models.txt below /models, then ends. 0 = all are there; 1 = some are not, each of them named.
#
# A line of models.txt: the folder below /models, a blank, the source as rclone writes it but for the leading colon.
#   101/3 gcs:bucket/path   TensorFlow Serving, OpenVINO: the folder is a version, its files are the model
#   103 s3:bucket/path      Triton: the folder is the model, its versions are folders in the source
set -u

list=${LIST:-/etc/model-download/models.txt}
models=${DEST:-/models}
incoming=$models/.incoming
service_account=${RCLONE_GCS_SERVICE_ACCOUNT_FILE:-/creds/gcs.json}

# Provider names as people write them; rclone knows only its own spelling.
case ${RCLONE_S3_PROVIDER:-} in
    [Mm]inio | MinIO | MINIO) export RCLONE_S3_PROVIDER=Minio ;;
    [Ss]3 | aws | Aws) export RCLONE_S3_PROVIDER=AWS ;;
esac

log() {
    printf 'model_download: %s\n' "$*"
}

# Fails, with the file to fill in, when the credentials for source $1 are not there.
have_credentials() {
    case $1 in
        gcs:*)
            if [ ! -s "$service_account" ]; then
                log "$1 needs a service account: put it into creds/bundle/gcs.json"
                return 1
            fi
            if grep -q '"private-key"' "$service_account"; then
                log "$1 needs a service account: creds/bundle/gcs.json still is the placeholder"
                return 1
            fi
            ;;
        s3:*)
            if [ -z "${RCLONE_S3_ACCESS_KEY_ID:-}" ] || [ -z "${RCLONE_S3_SECRET_ACCESS_KEY:-}" ]; then
                log "$1 needs RCLONE_S3_ACCESS_KEY_ID and RCLONE_S3_SECRET_ACCESS_KEY in creds/bundle/.env"
                return 1
            fi
            ;;
        *)
            log "$1 is on no storage known here (gcs:, s3:)"
            return 1
            ;;
    esac
}

# Makes folder $2 the same as source $1. rclone takes a source that does not exist for an empty one, and would empty
# the folder: so look first.
mirror() {
    if [ -z "$(rclone lsf ":$1" --recursive --files-only | head -n 1)" ]; then
        log "$1 has no files, or cannot be listed"
        return 1
    fi
    mkdir -p "$2" && rclone sync ":$1" "$2" --transfers 8 --retries 3 --stats 0
}

# These engines poll the model's folder, load any number it finds and prefer the highest: they may see a version
# only when it is whole, and no other one beside it.
bring_version() {
    model=$models/${1%/*}
    if [ -d "$models/$1" ]; then
        mirror "$2" "$models/$1" || return 1
    else
        mirror "$2" "$incoming/$1" || return 1
        mkdir -p "$model" && mv "$incoming/$1" "$models/$1" || return 1
    fi
    for other in "$model"/*; do
        if [ "$other" != "$models/$1" ]; then
            rm -rf "$other"
        fi
    done
}

bring() {
    have_credentials "$2" || return 1
    case $1 in
        */*) bring_version "$1" "$2" ;;
        *) mirror "$2" "$models/$1" ;;
    esac
}

missing=0
while read -r folder source || [ -n "$folder" ]; do
    case $folder in
        '' | '#'*) continue ;;
    esac
    # rclone must not read the list.
    if bring "$folder" "$source" </dev/null; then
        log "$folder is there"
    else
        log "FAILED $folder"
        missing=$((missing + 1))
    fi
done <"$list"

rm -rf "$incoming"
if [ "$missing" -gt 0 ]; then
    log "$missing model(s) could not be brought; the services do not start without them"
    exit 1
fi
log "every model is there"
