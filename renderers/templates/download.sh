#!/bin/sh
# Fetches every model of models.txt into /models, has the running engines load new versions, then writes the map of
# the router.
#
# Exit code: 0 = every model is there, or the others may start without it. 1 = some are not, each of them named.
# In /models, .missing/ID says that the model is not there, .restart/ID that its service has to be restarted to load what
# is there, and .load/ID that its engine may not have loaded it, because it was not running.
#
# A line of models.txt: FOLDER ENGINE NAME UPDATE LIMIT IDENTITY STORE SOURCE
#   FOLDER    101/3: a version that TensorFlow Serving or OpenVINO loads; 103: a model, or a repository, of Triton
#   ENGINE    tensorflow, openvino, triton or triton-repository
#   NAME      the name of the model in its engine; of a repository, the names to load, separated by commas
#   UPDATE    in_place: the running engine loads the version; restart: a new container does
#   LIMIT     seconds that the engine may take to load a version
#   IDENTITY  differs whenever the content differs
#   STORE     -, or the NAME of creds/bundle/NAME.env, which replaces the credentials in creds/bundle/.env
#   SOURCE    a path of rclone without its leading colon, or the URL of an archive
#
# A version appears by one rename, and it is removed only after its engine has switched to another one. A crash at
# any point is repaired by the next run.
set -u

list=${LIST:-/etc/model-download/models.txt}
map=${MAP:-/etc/model-download/models.map}
router=${ROUTER:-/router}
models=${DEST:-/models}
creds=${CREDS:-/creds}
work=$models/.incoming

log() {
    printf 'model_download: %s\n' "$*"
}

# Prints the names in folder $1. None of them has a blank.
names_in() {
    for path in "$1"/*; do
        [ ! -e "$path" ] || echo "${path##*/}"
    done
}

# ---- the source ----

carriage_return=$(printf '\r')

# Replaces the credentials of creds/bundle/.env by those of the model's store. Proxy and authorities are the host's.
use_store() {
    if [ ! -r "$creds/$store.env" ]; then
        log "$folder needs the credentials of store $store: put them into creds/bundle/$store.env"
        return 1
    fi
    # Also those of the clouds' own clients, which rclone reads: no store is asked with the keys of another one.
    for variable in $(env | sed -En 's/^((RCLONE_(S3|GCS|AZUREBLOB)|AWS|GOOGLE|AZURE)_[A-Z0-9_]*)=.*/\1/p'); do
        unset "$variable"
    done
    # The file is read, not sourced: nothing in a value is executed. Quotes are as in Compose's env files.
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line%"$carriage_return"}
        variable=${line%%=*} value=${line#*=}
        case $variable in
            '' | [0-9]* | *[!A-Za-z0-9_]*) continue ;;
        esac
        case $value in
            \'*\') value=${value#\'} value=${value%\'} ;;
            \"*\") value=${value#\"} value=${value%\"} ;;
            *) value=${value%% #*} ;;
        esac
        export "$variable=$value"
    done <"$creds/$store.env"
}

prepare_credentials() {
    # Provider names as people write them; rclone knows only its own spelling.
    case ${RCLONE_S3_PROVIDER:-} in
        [Mm]inio | MinIO | MINIO) export RCLONE_S3_PROVIDER=Minio ;;
        [Ss]3 | aws | Aws) export RCLONE_S3_PROVIDER=AWS ;;
    esac
    # For rclone a service account takes precedence over every other way to authenticate.
    account=${RCLONE_GCS_SERVICE_ACCOUNT_FILE:-$creds/gcs.json}
    if [ "${RCLONE_GCS_ENV_AUTH:-}" = true ] || [ "${RCLONE_GCS_ANONYMOUS:-}" = true ]; then
        unset RCLONE_GCS_SERVICE_ACCOUNT_FILE
    elif [ ! -s "$account" ] || grep -q '"private-key"' "$account"; then
        unset RCLONE_GCS_SERVICE_ACCOUNT_FILE
        account=
    fi
}

# Reports whether name, credentials or network are at fault, by rclone's messages in $work/$id.log.
explain() {
    file=creds/bundle/.env
    [ "$store" = - ] || file=creds/bundle/$store.env
    case $source in
        gcs:*)
            [ "$store" != - ] || file=creds/bundle/gcs.json
            [ -n "$account" ] || file="$file, which has no service account yet"
            ;;
        https:*) file='the artifact of the bundle: a server has to give it to everybody' ;;
        local:*) file="/<deployment_dir>/files, for other users than its owner too" ;;
        s3:*)
            if [ "${RCLONE_S3_ENV_AUTH:-}" = true ]; then
                file="$file, and the role of the machine (that of an EC2 machine needs an IMDS hop limit of 2)"
            elif [ -z "${RCLONE_S3_ACCESS_KEY_ID:-}" ]; then
                file="$file, where RCLONE_S3_ACCESS_KEY_ID is empty"
            fi
            ;;
    esac
    # rclone's last message is about the whole; it can have several lines, of which only the first has a date.
    reason=$(awk '/^[0-9]+[\/ ]/ { text = "" } { text = text " " $0 } END { print text }' "$work/$id.log" | sed 's/^ [0-9/]* [0-9:]* //
        s/^[A-Z]* *: //
        s/^Failed to .* with [0-9]* errors: last error was: //')
    if matches 'no space left|remaining disk space|quota exceeded'; then
        # Models that are fetched at the same time share what is free.
        log "$folder: the disk is too full ($reason)"
    elif matches 'x509:'; then
        : >"$unreachable"
        log "$source: the certificate of the store is not trusted: put that of its authority into creds/bundle, and" \
            "RCLONE_CA_CERT=/creds/<file> into creds/bundle/.env ($reason)"
    elif matches 'HTTP response to HTTPS client'; then
        : >"$unreachable"
        log "$source: the store has no encryption: write the endpoint in $file with http:// ($reason)"
    elif matches 'connection refused|connection reset|no such host|dial tcp|timeout|no route to host|unreachable|deadline exceeded|tls:|: EOF'; then
        : >"$unreachable"
        case $source in
            https:*) log "$source: the server cannot be reached: check the network, and the URI of the artifact ($reason)" ;;
            *) log "$source: the store cannot be reached: check the network, and the endpoint in $file ($reason)" ;;
        esac
    elif matches 'not found|NoSuchBucket|NoSuchKey|does not exist|doesn.t exist|(StatusCode|status code|Error):? 404'; then
        log "$source: there are no such files: $(where_to_look) ($reason)"
    elif matches 'AccessDenied|Forbidden|SignatureDoesNotMatch|InvalidAccessKeyId|Unauthorized|Authori[sz]ationFailure|AuthenticationFailed|invalid_grant|oauth2|default credentials|cached credentials|NoCredentialProviders|no authentication method|(StatusCode|status code|Error):? 40[13]'; then
        log "$source: access is refused: check the credentials in $file ($reason)"
    else
        log "$source cannot be read: $reason"
    fi
}

where_to_look() {
    case $source in
        local:*) echo "check the URI of the artifact, and that they are in /<deployment_dir>/files" ;;
        https:*) echo 'check the URI of the artifact' ;;
        *) echo 'check the URI of the artifact, and that the credentials may see them' ;;
    esac
}

matches() {
    echo "$reason" | grep -Eqi "$1"
}

# Reports what the engine cannot load, by the listing in $work/$id.list.
check_layout() {
    case $engine in
        tensorflow) wanted='saved_model\.pb(txt)?' ;;
        openvino) wanted='[^/]*\.(xml|onnx|pdmodel|tflite)|saved_model\.pb' ;;
        triton)
            wanted='config\.pbtxt'
            # Triton completes the configuration of some models, which then have versions alone.
            grep -Eq '/config\.pbtxt$' "$work/$id.list" || wanted="$wanted|[1-9][0-9]*/.*"
            ;;
        triton-repository) wanted='[^/]*/(config\.pbtxt|[1-9][0-9]*/.*)' ;;
    esac
    if grep -Eq "^[0-9]* ($wanted)\$" "$work/$id.list"; then
        return 0
    fi
    deeper=$(sed 's/^[0-9]* //' "$work/$id.list" | grep -E "/($wanted)\$" | head -n 1)
    if [ -n "$deeper" ]; then
        case $source in
            https:*) remedy='pack the archive from there' ;;
            *) remedy='the URI of the artifact has to end there' ;;
        esac
        log "$source: the engine finds no model here; it is below, at $deeper: $remedy"
        return 1
    fi
    if [ "$(wc -l <"$work/$id.list")" -eq 1 ] && grep -Eqi '\.(zip|tar|tgz|tar\.[a-z0-9]*)$' "$work/$id.list"; then
        log "$source: the engine finds no model here, but an archive: publish its content, or a .tar.gz by an https:// URL"
        return 1
    fi
    log "warning: $source has no file that this engine usually loads"
}

# Prints the progress of a download now and then, until it is killed.
report_progress() {
    # It outlives this process for a moment, and must keep neither the lock nor the log open.
    while sleep 15 >/dev/null 2>&1 9>&-; do
        log "$folder: $(du -sk "$incoming" 2>/dev/null | cut -f 1) KiB of $1 KiB"
    done
}

# Writes sizes and paths of the files of the source to $work/$id.list, within $1 seconds and with option $2 of rclone.
list_source() {
    timeout "$1" rclone lsf ":$source" "$2" --files-only --format sp --separator ' ' --retries 1 \
        --low-level-retries 1 --contimeout 5s --timeout 10s >"$work/$id.list" 2>"$work/$id.log"
    code=$?
    case $code in
        # What `timeout` returns, and what that of busybox does.
        124 | 143) echo "0 0 timeout: no answer within $1 s" >"$work/$id.log" ;;
    esac
    [ "$code" -eq 0 ] || explain
    return "$code"
}

# Fetches the source into $incoming.
fetch() {
    [ "$store" = - ] || use_store || return 1
    prepare_credentials
    if [ -e "$unreachable" ]; then
        log "$source is not tried: the store cannot be reached"
        return 1
    fi
    log "$folder: reading $source"
    case $source in
        https:*)
            fetch_archive
            return
            ;;
    esac
    # A quick look first, so that a store that does not answer is known within seconds: a long list takes longer.
    list_source 15 --max-depth=1 && list_source 300 --recursive || return 1
    if grep -q "Can't follow symlink" "$work/$id.log"; then
        log "$source has links, which are not followed: put the files themselves there"
        return 1
    fi
    # A folder that does not exist is an empty one for most stores.
    if [ ! -s "$work/$id.list" ]; then
        log "$source: there are no such files: $(where_to_look)"
        return 1
    fi
    check_layout || return 1
    needed=$(awk '{ sum += $1 } END { printf "%d", sum / 1024 + 1 }' "$work/$id.list")
    free=$(df -Pk "$models" | awk 'NR == 2 { print $4 }')
    if [ "$needed" -gt "$free" ]; then
        log "$folder: the disk is too full: $needed KiB are needed, and $free KiB are free"
        return 1
    fi
    report_progress "$needed" &
    progress=$!
    rclone copy ":$source" "$incoming" --transfers 8 --retries 3 --low-level-retries 3 --contimeout 10s \
        --timeout 60s --stats 0 2>"$work/$id.log"
    code=$?
    kill "$progress" 2>/dev/null
    [ "$code" -eq 0 ] || explain
    return "$code"
}

# Unpacks the archive if its digest is that of the bundle: a server can answer with anything.
fetch_archive() {
    if ! rclone copyurl "$source" "$work/$id.archive" --retries 3 --low-level-retries 3 --contimeout 5s \
        --timeout 60s --stats 0 2>"$work/$id.log"; then
        explain
        return 1
    fi
    digest=$(sha256sum "$work/$id.archive")
    if [ "sha256:${digest%% *}" != "$identity" ]; then
        log "$source has the digest sha256:${digest%% *}, and the bundle says $identity"
        return 1
    fi
    # Not every tar recognises the compression of a file.
    case $source in
        *.tar) form= ;;
        *) form=z ;;
    esac
    mkdir -p "$incoming" || return 1
    if ! tar "-x${form}of" "$work/$id.archive" -C "$incoming" 2>"$work/$id.log"; then
        log "$source cannot be unpacked: check that it is a $(echo "${source##*/}" | sed 's/^[^.]*//') archive, and the" \
            "free space ($(tail -n 1 "$work/$id.log"))"
        return 1
    fi
    rm -f "$work/$id.archive"
    # An engine follows links, and so does what comes after this.
    link=$(cd "$incoming" && find . '(' ! -type f ! -type d ')' -o '(' -type f -links +1 ')' | head -n 1)
    if [ -n "$link" ]; then
        log "$source has a link or a device, $link: pack files and folders only (tar --dereference --hard-dereference)"
        return 1
    fi
    # An engine need not run as root.
    chmod -R u=rwX,go=rX "$incoming"
    (cd "$incoming" && find . -type f) | sed 's/^\.\//0 /' >"$work/$id.list"
    check_layout
}

# ---- the engines ----

client=
for program in curl wget; do
    if [ -z "$client" ] && command -v "$program" >/dev/null; then
        client=$program
    fi
done

# Prints the answer to a request: ask SECONDS URL [BODY]. Fails without an answer, and if the answer is an error; then
# $work/$id.ask has the reason.
ask() (
    # A proxy is for the stores, not for the network of the bundle.
    unset http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY
    case $client in
        curl) exec curl -fsS -m "$1" ${3:+--data "$3"} "$2" 2>"$work/$id.ask" ;;
        wget)
            timeout "$1" wget -q ${3:+--post-data "$3"} -O - "$2" 2>"$work/$id.ask"
            code=$?
            # The quiet wget of GNU prints no error; this is its code for an answer that is one.
            [ "$code" -ne 8 ] || echo 'the server returned error' >>"$work/$id.ask"
            exit "$code"
            ;;
        *) exit 1 ;;
    esac
)

# Prints the state of version $number in the engine, in the engine's words; `FAILED` if it could not be loaded,
# `absent` if the engine has no such version, `down` if no engine answers.
state() {
    if answer=$(ask 5 "$url"); then
        printf '%s' "$answer" | tr -d ' \n\t' | tr '{' '\n' | awk -v "begin=\"version\":\"$number\",\"state\":\"" '
            index($0, begin) == 1 {
                state = substr($0, length(begin) + 1)
                sub(/".*/, "", state)
                getline
                if (state != "AVAILABLE" && $0 !~ /^"error_code":"OK"/) state = "FAILED"
                exit
            }
            END { print state ? state : "absent" }'
    elif grep -qs 'returned error' "$work/$id.ask"; then
        # It runs, and has no version at all.
        echo absent
    else
        echo down
    fi
}

# Waits until the engine serves version $number. Prints `served`; `down` if no engine was running; `unseen` if it
# does not find the version; `failed` if it does not serve it in time, or crashes.
await_version() {
    waited=0
    while :; do
        case $(state) in
            AVAILABLE) echo served && return ;;
            down)
                [ "$waited" -eq 0 ] && echo down || echo failed
                return
                ;;
            # An engine looks at its folder once a second, and remembers what became of a number before.
            absent | END) [ "$waited" -lt 15 ] || { echo unseen && return; } ;;
            FAILED) [ "$waited" -lt 15 ] || { echo failed && return; } ;;
        esac
        [ "$waited" -lt "$limit" ] || { echo failed && return; }
        waited=$((waited + 1))
        sleep 1
    done
}

# Whether the folder of the model is another one than the run before has seen. A container keeps the folder that it
# was started with.
is_folder_replaced() {
    before=$(sed -n "s/^\([0-9]*\) $id\$/\1/p" "$models/.folders" 2>/dev/null)
    [ -n "$before" ] && [ "$before" != "$(stat -c %i "$models/$id")" ]
}

# Leaves the version to a new container, because of $1. update.sh starts one; without it, this script sees at its
# next run that the engine was stopped.
needs_restart() {
    : >"$models/.restart/$id"
    log "$folder: $1; run: sh update.sh, or: docker compose rm --stop --force s${id}s && docker compose up --detach"
}

report_failed_load() {
    log "$folder: s${id}s cannot load it, and keeps what it has; see: docker compose logs s${id}s"
}

no_client='model_download has neither curl nor wget, and cannot ask the engine to load it'

# ---- versions on the disk ----

mark() {
    mkdir -p "$markers" && printf '%s\n' "$identity" >"$marker.new" && mv "$marker.new" "$marker"
}

# Whether the wanted files are there.
is_complete() {
    [ -e "$models/$target" ] && [ -z "${MODEL_DOWNLOAD_REFRESH:-}" ] || return 1
    if [ ! -e "$marker" ]; then
        # The previous release renamed complete versions into their place too, but wrote no markers.
        [ "$folder" != "$id" ] && mark || return 1
    fi
    [ "$(cat "$marker")" = "$identity" ]
}

# Whether number $1 is higher than $2. They have up to 64 bits, more than `test` has in some shells.
is_higher() {
    if [ ${#1} -ne ${#2} ]; then
        [ ${#1} -gt ${#2} ]
        return
    fi
    [ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | LC_ALL=C sort | tail -n 1)" = "$1" ]
}

# Moves version $1 out of the engine's sight, and keeps it.
retire() {
    mkdir -p "$retired" && rm -rf "${retired:?}/$1" && mv "$models/$id/$1" "$retired/$1"
}

# Makes $incoming the version $number. The engine polls the folder of the model, and loads the highest number.
install_version() {
    mkdir -p "$models/$id" || return 1
    if [ -e "$models/$target" ]; then
        running=$(state)
        retire "$number" && mv "$incoming" "$models/$target" && mark || return 1
        [ "$update" = restart ] || [ "$running" = down ] ||
            needs_restart "its files have changed, and the engine does not load a number twice"
    else
        mv "$incoming" "$models/$target" && mark
    fi
}

# Lets the engine switch to version $number, then removes the others. $1: `new` if this run installed it.
settle_version() {
    others=$(names_in "$models/$id" | grep -vFx "$number")
    for other in $others; do
        if is_higher "$other" "$number"; then
            retire "$other" || return 1
        fi
    done
    if [ "$1" = known ] && [ -z "$others" ] && [ ! -d "$retired" ] || [ -e "$models/.restart/$id" ]; then
        # The container that runs may need its files until it is replaced.
        return 0
    elif [ "$update" = restart ]; then
        [ "$1" = known ] && [ "$(state)" = AVAILABLE ] || return 0
    elif [ -z "$client" ]; then
        [ "$1" = known ] || { needs_restart "$no_client" && return 0; }
    else
        log "$folder: waiting for s${id}s to serve it"
        case $(await_version) in
            served) ;;
            # It may be stopped for a moment only, or be another engine that stays: its version is kept.
            down)
                kept=$(names_by_time | grep -Fx "$others" | head -n 1)
                others=$(echo "$others" | grep -vFx "${kept:-$others}")
                remove_versions
                return 0
                ;;
            unseen)
                needs_restart 'the engine does not see it, because the folder of the model was replaced'
                return 0
                ;;
            failed)
                report_failed_load
                restore_versions
                return 1
                ;;
        esac
    fi
    remove_versions
    rm -rf "$retired"
}

remove_versions() {
    for other in $others; do
        rm -rf "${models:?}/$id/$other" "${markers:?}/$other"
    done
}

# Prints the versions of the model that were complete, the last one first.
names_by_time() {
    # No name has a character that `ls` changes.
    # shellcheck disable=SC2012
    ls -t "$markers" 2>/dev/null
}

# Takes version $number away, and brings the retired ones back.
restore_versions() {
    for other in $(names_in "$retired"); do
        [ -e "$models/$id/$other" ] || mv "$retired/$other" "$models/$id/$other"
    done
    rm -rf "${models:?}/$target" && rm -f "$marker"
}

# Points the link that Triton reads to $1: one rename replaces a whole model.
link_to() {
    # A version folder of the previous release can have the name of the model. Triton has read it.
    [ -L "$models/$target" ] || rm -rf "${models:?}/$target"
    rm -f "$models/$id/.link" && ln -s "$1" "$models/$id/.link" && mv -T "$models/$id/.link" "$models/$target"
}

# Prints the folder of the files with identity $1, below that of the model.
version_of() {
    echo ".v/$(echo "${1#sha256:}" | cut -c 1-16)"
}

# Makes $incoming the model of Triton, and has a running Triton load it.
install_model() {
    version=$(version_of "$identity")
    before=
    # The link may lead to a version that no run has seen loaded, if one was killed.
    [ ! -e "$marker" ] || before=$(version_of "$(cat "$marker")")
    [ -d "$models/$id/$before" ] && [ -n "$before" ] || before=$(readlink "$models/$target")
    mkdir -p "$models/$id/.v" && rm -rf "${models:?}/$id/$version" && mv "$incoming" "$models/$id/$version" || return 1
    # Triton loads what is newer than what it has, and rclone keeps the times of the source.
    find "$models/$id/$version" -exec touch {} +
    link_to "$version" || return 1
    if [ -z "$before" ] || [ "$update" = restart ]; then
        mark
    elif [ -z "$client" ]; then
        mark && needs_restart "$no_client"
    elif ask 5 "$url" >/dev/null; then
        load_model && mark && remove_other_models
    else
        # An engine that is starting may have read the former one: the next run has it load this one.
        echo "$before" >"$models/.load/$id" && mark || return 1
        for other in "$models/$id"/.v/*; do
            case $other in
                */"$version" | */"$before") ;;
                *) rm -rf "$other" ;;
            esac
        done
    fi
}

# Has the engine load what the link leads to. If it does not, the link leads to $before again.
load_model() {
    rm -f "$models/.load/$id"
    for model in $(echo "$name" | tr , ' '); do
        log "$folder: waiting for s${id}s to load $model"
        request_load "$model" && continue
        code=$?
        report_failed_load
        link_to "$before"
        case $code in
            # It has no end in time, and may succeed later: what the link leads to is loaded after it.
            28 | 124 | 143)
                find "$models/$id/$before" -exec touch {} +
                request_load "$model"
                ;;
        esac
        return 1
    done
}

request_load() {
    ask "$limit" "http://s${id}s:8000/v2/repository/models/$1/load" '{}' >/dev/null
}

# Removes what is not used any more, once the engine runs with what is there.
settle_model() {
    ask 5 "$url" >/dev/null || return 0
    if [ -e "$models/.load/$id" ]; then
        before=$(cat "$models/.load/$id")
        load_model || { rm -f "$marker" && return 1; }
    fi
    remove_other_models
}

# Removes what the link does not lead to, among it what the previous release left.
remove_other_models() {
    current=$(readlink "$models/$target")
    for other in "$models/$id"/* "$models/$id"/.v/*; do
        if [ "$other" != "$models/$target" ] && [ "$other" != "$models/$id/$current" ]; then
            rm -rf "$other"
        fi
    done
}

# ---- one model ----

bring() {
    id=${folder%%/*} number=${folder#*/} incoming=$work/models/$id retired=$models/.retired/$id
    case $source in
        https:*) origin=${source#https://} origin=https.${origin%%/*} ;;
        *) origin=$store.${source%%:*} ;;
    esac
    # It is there once the store of the model, or the host of the archive, could not be reached.
    unreachable=$work/unreachable.$origin
    # It is written when the files are complete, and holds their identity.
    markers=$models/.complete/$id marker=$models/.complete/$id/$number
    target=$folder url=http://s${id}s:8000/v2/health/live
    case $engine in
        tensorflow) url=http://s${id}s:8501/v1/models/$name ;;
        openvino) url=http://s${id}s:8000/v1/models/$name ;;
        triton) target=$id/$name ;;
        triton-repository) target=$id/$id ;;
    esac
    if [ -e "$models/.restart/$id" ] && [ -n "$client" ] && [ "$(state)" = down ]; then
        rm -f "$models/.restart/$id"
    fi
    if is_complete; then
        if is_folder_replaced && [ "$(state)" != down ]; then
            needs_restart 'the engine does not see its files, because the folder of the model was replaced'
            return 0
        fi
        case $folder in
            */*) settle_version known ;;
            *) settle_model ;;
        esac
    elif fetch; then
        case $folder in
            */*) install_version && settle_version new ;;
            *) install_model ;;
        esac
    else
        use_former_model
    fi
}

# The previous release had the files of a Triton model directly in its folder.
use_former_model() {
    [ -e "$unreachable" ] && [ -e "$models/$id/config.pbtxt" ] || return 1
    former=$models/$id/.v/former
    if [ ! -e "$former" ]; then
        rm -rf "$former.new" && mkdir -p "$former.new" || return 1
        for file in "$models/$id"/*; do
            # The container that runs needs them where they are. Links cost no space, where the disk has them.
            cp -rl "$file" "$former.new/" || cp -r "$file" "$former.new/" || return 1
        done
        mv "$former.new" "$former" || return 1
    fi
    [ -L "$models/$target" ] || link_to .v/former || return 1
    log "warning: $folder is used as it is; whether it is complete is not known"
}

# Takes the next line of the list that no other process has taken, until there is none.
bring_models() {
    count=0
    while read -r folder engine name update limit identity store source || [ -n "$folder" ]; do
        count=$((count + 1))
        case $folder in
            '' | '#'*) continue ;;
        esac
        mkdir "$work/taken.$count" 2>/dev/null || continue
        # A subshell, because a store has credentials of its own; rclone must not read the list.
        if (bring) </dev/null; then
            log "$folder is there"
        else
            log "FAILED $folder"
            : >"$models/.missing/${folder%%/*}"
        fi
    done <"$list"
}

# Writes the lines of the map whose models are there. A model that failed keeps its line if it had one.
write_map() {
    if [ ! -d "$router" ]; then
        return 0
    fi
    # A pattern that no line has: an empty file would not be read as no pattern by every grep.
    echo ' none' >"$work/left-out"
    for id in $(names_in "$models/.missing"); do
        grep -q " s${id}s:" "$router/models" 2>/dev/null || echo " s${id}s:" >>"$work/left-out"
    done
    # A full disk leaves the previous map. `grep` fails with 1 if it prints nothing.
    { grep -vF -f "$work/left-out" "$map" || [ $? -eq 1 ]; } >"$router/models.new" && mv "$router/models.new" "$router/models" || {
        log 'the map of the router cannot be written: is the disk full?'
        return 1
    }
    # update.sh sends calls to certain containers while it replaces others. If it was killed, they may be gone.
    for pin in "$router"/pinned.*; do
        case " ${KEEP_PINS:-} " in
            *" ${pin##*/pinned.} "*) ;;
            *) rm -f "$pin" ;;
        esac
    done
}

# ---- all models ----

mkdir -p "$models/.retired" || exit 1
# The kernel ends this lock with the process, however that ends.
exec 9>"$models/.lock"
if ! command -v flock >/dev/null; then
    log 'warning: without flock, two model_download that run at once are not kept apart'
elif ! flock -n 9; then
    log 'waiting for another model_download that works on these models'
    flock 9
fi
rm -rf "$work" "$models/.missing" || exit 1
mkdir -p "$work/models" "$models/.missing" "$models/.restart" "$models/.load" || exit 1

# Three at a time: a large model does not keep the others waiting, and the engine's host keeps its bandwidth.
bring_models &
bring_models &
bring_models &
wait

(cd "$models" && stat -c '%i %n' -- *) >"$models/.folders" 2>/dev/null
failed=$(names_in "$models/.missing" | wc -l)
restarts=$(names_in "$models/.restart" | sed 's/.*/s&s/' | tr '\n' ' ')
write_map || exit 1
rm -rf "$work"
[ -z "$restarts" ] || log "these services have to be restarted to load what is there: $restarts"
if [ "$failed" -eq 0 ]; then
    log 'every model is there'
elif [ "${REQUIRE_ALL_MODELS:-true}" = true ]; then
    log "$failed model(s) are missing; services that do not run yet do not start without them"
    exit 1
else
    log "$failed model(s) are missing; the services of the others start"
fi
