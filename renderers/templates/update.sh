#!/bin/sh
# Brings the deployment in the current directory to the state of /base, without failed calls where that is possible.
# It is called by update.sh of a deployment directory; --help shows its options.
#
# The order matters: models are fetched, and loaded by the engines that run, before any container changes. So a
# missing model or an unreachable store leaves everything running. If it is killed, running it again completes the
# update. It changes no file of the deployment directory.
set -u

usage() {
    cat <<'TEXT'
usage: sh update.sh [--dry-run] [--pull] [--timeout SECONDS] [--skip-override-of SERVICE]...

  --dry-run                   check the host, show what would change, change nothing
  --pull                      pull every image, not only those that are not on this host
  --timeout SECONDS           how long a new container may take to become healthy (600; at least the start_period of
                              its model)
  --skip-override-of SERVICE  ignore what docker-compose.override.yaml says of a service that left the bundle

Exit code: 0 = the deployment has the state of /base; 1 = it does not, and the last lines say why; 2 = usage.
TEXT
}

say() {
    printf '%s\n' "$*"
}

fail() {
    printf 'update.sh: %s\n' "$*" >&2
    exit 1
}

refuse() {
    printf 'update.sh: %s\n' "$*" >&2
    usage >&2
    exit 2
}

# ---- docker ----

# It may be two words, or a path with blanks.
program=${DOCKER_COMPOSE:-docker compose}

run_program() {
    if command -v "$program" >/dev/null; then
        "$program" "$@"
    else
        $program "$@"
    fi
}

compose() {
    if [ -n "$filtered" ]; then
        run_program -f "$project_file" -f "$filtered" --project-directory . "$@"
    else
        run_program "$@"
    fi
}

# The containers of the project, as lines: SERVICE ID HASH STATE NAME. With $1, those of that service alone.
containers() {
    docker ps -a --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter label=com.docker.compose.oneoff=False ${1:+--filter "label=com.docker.compose.service=$1"} --format \
        '{{.Label "com.docker.compose.service"}} {{.ID}} {{.Label "com.docker.compose.config-hash"}} {{.State}} {{.Names}}' |
        sort
}

# The running containers that the project as it is now would recreate, as lines: SERVICE ID NAME.
outdated() {
    containers '' | awk 'NR == FNR { wanted[$1] = $2; next }
        $4 == "running" && $1 in wanted && $3 != wanted[$1] { print $1, $2, $5 }' "$work/hashes" -
}

# The ids of the running containers of service $1.
running() {
    containers "$1" | awk '$4 == "running" { print $2 }'
}

# The lines of the input that are not among the arguments.
without() {
    for argument in "$@"; do
        echo "$argument"
    done >"$work/without"
    grep -vxF -f "$work/without"
}

name_of() {
    docker inspect --format '{{slice .Name 1}}' "$1"
}

quietly() {
    "$@" >"$work/log" 2>&1
}

health() {
    docker inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}' "$1" 2>/dev/null
}

restarts() {
    docker inspect --format '{{.RestartCount}}' "$1" 2>/dev/null
}

# The seconds that a container of service $1 may take to become healthy.
patience() {
    limit=$(sed -n "s|^$(model_id "$1")\(/[0-9]*\)* [^ ]* [^ ]* [^ ]* \([0-9]*\) .*|\2|p" "$list")
    if [ -z "$timeout_given" ] && [ "${limit:-0}" -gt "$timeout" ]; then
        echo "$limit"
    else
        echo "$timeout"
    fi
}

# Prints what became of container $1.
condition() {
    docker inspect --format '{{.State.Status}}, exit code {{.State.ExitCode}}, {{.RestartCount}} restarts' "$1" 2>/dev/null
}

# Waits until container $1 of service $2 is healthy. Fails if it is not in time, has ended, or ends again and again.
# $3: seconds of its time that have passed already (0).
await_healthy() {
    waited=${3:-0} patience=$(patience "$2") restarts=$(restarts "$1")
    while :; do
        case $(health "$1") in
            # Without a health check, it is enough that it runs.
            healthy | running) return 0 ;;
            # One that was created could not be started.
            created | exited | dead | '') return 1 ;;
        esac
        [ "$(restarts "$1")" -lt $((${restarts:-0} + 3)) ] || return 1
        [ "$waited" -lt "$patience" ] || return 1
        waited=$((waited + 1))
        [ $((waited % 15)) -ne 0 ] || say "    $2 has not become healthy for $waited s"
        sleep 1
    done
}

# The id of the model that service $1 serves.
model_id() {
    echo "$1" | sed 's/^s//; s/s$//'
}

# The variable with end $2 in conf/bundle/.env that is about the resources of service $1.
variable() {
    echo "SERVING_$(model_id "$1" | tr - _)_$2"
}

# Says whether the kernel has ended processes in container $1 of service $2. The state of a container that was started
# again does not show it.
report_lack_of_memory() {
    if [ -n "$(docker events --since 60s --until 0s --filter "container=$1" --filter event=oom)" ]; then
        say "    $2: its memory limit is too low for it: raise $(variable "$2" MEM_LIMIT) in conf/bundle/.env"
    fi
}

# ---- before anything changes ----

check_tools() {
    docker version --format '{{.Server.Version}}' >/dev/null 2>"$work/log" ||
        fail "the docker engine does not answer: $(tail -n 1 "$work/log")"
    run_program version >/dev/null 2>"$work/log" || fail "'$program' does not work: $(tail -n 1 "$work/log")"
}

# Whether the project is valid. An override of a service that left the bundle makes the whole project invalid.
check_project() {
    if compose config >"$work/project" 2>"$work/log"; then
        used=$(sed -n 's|^ *source: \(.*\)/conf/bundle$|\1|p' "$work/project" | tr -d "\"'" | head -n 1)
        [ "$(cd "${used:-.}" && pwd -P)" = "$(pwd -P)" ] ||
            say "    warning: REL_DIR in .env is $used, so the configuration and credentials there are used, not those here"
        return 0
    fi
    gone=$(sed -n 's/.*service "\([^"]*\)" has neither an image nor a build context.*/\1/p' "$work/log" | head -n 1)
    place=$(grep -n -H "^ *[\"']*${gone}[\"']*:" docker-compose.override.y*ml compose.override.y*ml 2>/dev/null | head -n 1)
    if [ -z "$gone" ] || [ -z "$place" ]; then
        reason=$(tail -n 1 "$work/log")
        case $reason in
            *'env file'*) reason="$reason: REL_DIR in .env has to be $(pwd), and a file that is missing there is in /example" ;;
        esac
        fail "the project is not valid: $reason"
    fi
    case " $skipped " in
        *" $gone "*) fail "$(echo "$place" | cut -d : -f 1,2): $gone cannot be skipped as it is written here: write each service on lines of its own, or remove $gone" ;;
    esac
    fail "$(echo "$place" | cut -d : -f 1,2) changes $gone, which is not in the bundle any more: remove it there, or run sh update.sh --skip-override-of $gone"
}

# Prints the first of the arguments that is a file.
first_of() {
    for file in "$@"; do
        if [ -f "$file" ]; then
            echo "$file"
            return
        fi
    done
}

# Copies the override file without its services $skipped.
filter_override() {
    override=$(first_of docker-compose.override.yaml docker-compose.override.yml compose.override.yaml compose.override.yml)
    if [ -n "${COMPOSE_FILE:-}" ] || grep -q '^COMPOSE_FILE=' .env; then
        fail "COMPOSE_FILE names the files of this project, so --skip-override-of cannot change one of them: remove what they say of$skipped by hand"
    fi
    [ -n "$override" ] || fail 'there is no docker-compose.override.yaml here, so --skip-override-of has no meaning'
    project_file=$(first_of docker-compose.yaml docker-compose.yml compose.yaml compose.yml)
    # A service is a key below `services:`; the first of them shows how far these are indented.
    awk -v skipped=" $skipped " '
        { match($0, /^ */); indent = RLENGTH; text = substr($0, indent + 1) }
        text == "" || text ~ /^#/ { if (!skipping) print; next }
        indent == 0 { inside = text ~ /^services: *(#.*)?$/; depth = 0; skipping = 0 }
        inside && indent > 0 && !depth { depth = indent }
        inside && depth && indent == depth {
            name = text; sub(/:.*/, "", name); gsub(/["\047]/, "", name)
            skipping = index(skipped, " " name " ") > 0
        }
        !skipping
    ' "$override" >"$work/override.yaml"
    filtered=$work/override.yaml
    # `services:` without a service is not valid.
    if ! awk '/^services:/ { inside = 1; next } inside && /^ +[^ #]/ { found = 1 } /^[^ #]/ { inside = 0 } END { exit !found }' "$filtered"; then
        sed 's/^services: *\(#.*\)\{0,1\}$/services: {}/' "$filtered" >"$work/no-services.yaml"
        filtered=$work/no-services.yaml
    fi
}

has_runtime() {
    docker info --format '{{range $name, $_ := .Runtimes}}{{$name}} {{end}}' | grep -qw "$1"
}

check_host() {
    if grep -q '^    runtime: nvidia$' "$work/project" && ! has_runtime nvidia; then
        fail "$(services_with '^    runtime: nvidia$'): docker has no runtime nvidia here, so no service would start: install the NVIDIA container toolkit, or set 'runtime: runc' in docker-compose.override.yaml"
    fi
    awk '
        /^  [^ ]/ { service = $1; sub(/:$/, "", service); cdi = 0 }
        /^          +(- )?driver: cdi$/ { cdi = 1; delete wants[service] }
        /^          +(- )?capabilities:/ { if (!cdi) wants[service] = 1 }
        END { for (service in wants) print service }
    ' "$work/project" >"$work/devices"
    if [ -s "$work/devices" ] && ! has_runtime nvidia && ! command -v nvidia-container-runtime-hook >/dev/null; then
        fail "$(sort "$work/devices" | tr '\n' ' ' | sed 's/ $//'): docker cannot give GPUs here, so it would not start: install the NVIDIA container toolkit, or set 'devices: !reset []' in docker-compose.override.yaml"
    fi
    cpus=$(docker info --format '{{.NCPU}}')
    awk -v cpus="$cpus" '
        /^  [^ ]/ { service = $1; sub(/:$/, "", service) }
        /^        limits:/ { limits = 1; next } /^        [^ ]/ { limits = 0 }
        limits && /^ *cpus:/ { value = $2; gsub(/["\047]/, "", value); if (value + 0 > cpus + 0) print service, value }
    ' "$work/project" >"$work/too-many-cpus"
    if [ -s "$work/too-many-cpus" ]; then
        read -r service value <"$work/too-many-cpus"
        fail "$service may use $value CPUs, and this host has $cpus, so docker refuses it: set $(variable "$service" CPU_LIMIT) in conf/bundle/.env"
    fi
}

# The services with a line that matches $1.
services_with() {
    awk -v pattern="$1" '/^  [^ ]/ { service = $1; sub(/:$/, "", service) } $0 ~ pattern { print service }' \
        "$work/project" | sort -u | tr '\n' ' ' | sed 's/ $//'
}

# ---- the router ----

# Runs a command of router.sh in the running router.
route() {
    docker exec "$router" /bin/sh /etc/router/router.sh "$@"
}

# The address of the engine in container $1, whose name is $2.
address_of() {
    command=$(docker inspect --format '{{join .Config.Entrypoint " "}} {{join .Config.Cmd " "}}' "$1")
    port=$(echo "$command" | tr ' ' '\n' | sed -n 's/^--port=//p' | tail -n 1)
    case $command in
        *tritonserver*) port=8001 ;;
    esac
    echo "$2:${port:-8500}"
}

# Runs a script, from the input, in a container that has the folder of the models and the volume of the router.
in_volumes() {
    quietly run_download --entrypoint /bin/sh model_download -s
}

# Runs a container of model_download beside the others, without Compose's advice about services that left the bundle.
run_download() (
    export COMPOSE_IGNORE_ORPHANS=true
    compose run --rm --no-deps -T "$@"
)

# Prints, as lines SERVICE ADDRESS, the outdated containers that listen on another port than the new map has.
moved() {
    while read -r service container name; do
        address=$(address_of "$container" "$name")
        port=$(sed -n "s/.* $service:\([0-9]*\);.*/\1/p" ../base/bundle/nginx/models.map)
        if [ -n "$port" ] && [ "$port" != "${address##*:}" ]; then
            echo "$service $address"
        fi
    done <"$work/outdated"
}

# Has the router call these containers until they are replaced: model_download publishes the new map.
pin_moved() {
    moved >"$work/moved"
    kept=$(cut -d ' ' -f 1 "$work/moved" | tr '\n' ' ')
    if [ -z "$kept" ]; then
        return 0
    fi
    sed 's/\([^ ]*\) \(.*\)/echo \2 >\/router\/pinned.\1/' "$work/moved" >"$work/pins"
    in_volumes <"$work/pins" ||
        fail "the volume of the router cannot be written, and no container was changed: $(tail -n 1 "$work/log")"
    # The router looks once a second.
    sleep 2
}

# Replaces the router if its container is outdated.
update_router() {
    service=$(sed -n 's/^  \([^ ]*-nginx\):$/\1/p' ../base/bundle/docker-compose.yaml)
    if grep -q "^$service " "$work/outdated"; then
        say "==> replacing the router"
        quietly compose up -d --no-deps "$service" || fail "$service cannot be replaced: $(tail -n 1 "$work/log")"
        await_healthy "$(running "$service")" "$service" ||
            fail "$service does not become healthy; see: docker compose logs $service"
    fi
    router=$(running "$service")
}

# ---- the models ----

# Whether a second container of service $1 fits beside container $2.
fits_twice() {
    if [ -z "$router" ] || [ -e "$work/scale-is-hashed" ] || grep -Eq "^$(model_id "$1")(/[0-9]+)? [^ ]+ [^ ]+ restart " "$list"; then
        return 1
    fi
    # The GPUs of one container cannot be promised to a second one.
    # An override may give it a name or ports, which only one container can have.
    if compose config "$1" 2>/dev/null | grep -Eq '^    (runtime: nvidia$|container_name:|ports:)|^          +(- )?capabilities:'; then
        return 1
    fi
    used=$(docker stats --no-stream --format '{{.MemUsage}}' "$2" | awk '{
        factor["B"] = 1 / 1024; factor["KiB"] = 1; factor["MiB"] = 1024; factor["GiB"] = 1048576
        unit = $1; gsub(/[0-9.]/, "", unit); printf "%d", $1 * factor[unit] }')
    free=$(docker exec "$router" sed -n 's/^MemAvailable: *\([0-9]*\).*/\1/p' /proc/meminfo)
    [ "${free:-0}" -gt $((${used:-0} + ${used:-0} / 4)) ]
}

# Sends the calls of service $1 to container $2, and says why where it cannot.
pin() {
    route pin "$1" "$(address_of "$2" "$(name_of "$2")")" && return 0
    reason="$(name_of "$router") does not apply a new map, and the old container stays"
    route unpin "$1"
    return 1
}

# Replaces the containers of service $1, whose ids are the other arguments: starts a new one, sends the calls there
# when it is healthy, and stops the old ones when they have answered. Fails with 2 where Compose cannot do that, and
# with 1, and $reason, where the old ones stay.
replace() {
    service=$1
    shift
    started=$(running "$service" | without "$@")
    if [ -z "$started" ]; then
        pin "$service" "$1" || return 1
        quietly compose up -d --no-deps --no-recreate --scale "$service=$(($# + 1))" "$service"
        started=$(running "$service" | without "$@")
        # Older releases of Compose count the scale among what a container is made of, and would replace the new one.
        if [ -n "$started" ] && outdated | grep -q " $started "; then
            : >"$work/scale-is-hashed"
            docker rm -f "$started" >/dev/null
            route unpin "$service"
            return 2
        fi
    fi
    if [ -z "$started" ]; then
        reason="a second container does not start, and the old one stays: $(tail -n 1 "$work/log")"
        remove_unstarted "$service"
        serve_from "$service" "$1"
        return 1
    fi
    if ! await_healthy "$started" "$service"; then
        reason="the new container does not become healthy ($(condition "$started")), and the old one stays"
        docker logs --tail 5 "$started" 2>&1 | sed 's/^/      /'
        report_lack_of_memory "$started" "$service"
        docker rm -f "$started" >/dev/null
        serve_from "$service" "$1"
        return 1
    fi
    if ! pin "$service" "$started"; then
        docker rm -f "$started" >/dev/null
        serve_from "$service" "$1"
        return 1
    fi
    for old in "$@"; do
        docker stop "$old" >/dev/null && docker rm "$old" >/dev/null
    done
    route unpin "$service" || say "    $service: the router did not apply that it may call any container of the service"
}

# Removes the containers of service $1 that were created and could not be started.
remove_unstarted() {
    containers "$1" | awk '$4 == "created" { print $2 }' | while read -r created; do
        docker rm "$created" >/dev/null
    done
}

# Whether pin_moved has pinned service $1.
is_pinned() {
    grep -q "^$1 " "$work/moved"
}

# Lets container $2 of service $1 serve on.
serve_from() {
    if is_pinned "$1"; then
        pin "$1" "$2"
    else
        route unpin "$1"
    fi
}

# Replaces the container of each model that needs a new one, one model after the other.
update_models() {
    for model in $(cut -d ' ' -f 1 "$work/outdated" | cat - "$work/restarts" | sort -u | grep -xF -f "$work/models"); do
        old=$(sed -n "s/^$model \([^ ]*\) .*/\1/p" "$work/outdated")
        old=${old:-$(running "$model")}
        [ -n "$old" ] || continue
        # Each id is an argument.
        # shellcheck disable=SC2086
        if fits_twice "$model" "$(echo "$old" | head -n 1)"; then
            say "==> $model: starting a new container beside the old one"
            replace "$model" $old
            case $? in
                0) ;;
                2) recreate "$model" ;;
                *) note_failure "$model" "$reason" ;;
            esac
        else
            recreate "$model"
        fi
    done
    forget_restarts
}

recreate() {
    say "==> $1: replacing its container"
    quietly compose up -d --no-deps --force-recreate "$1" || note_failure "$1" "$(tail -n 1 "$work/log")"
    if is_pinned "$1"; then
        route unpin "$1"
    fi
}

# Removes what model_download has noted of services that are restarted now.
forget_restarts() {
    grep -vxF -e " " -f "$work/failed" "$work/restarts" | while read -r model; do
        echo "rm -f /models/.restart/$(model_id "$model")"
    done >"$work/forget"
    [ ! -s "$work/forget" ] || in_volumes <"$work/forget"
}

# Brings the files back that the container of a service that failed has loaded, for its next start.
restore_files() {
    sort -u "$work/failed" | grep -xF -f "$work/restarts" | while read -r model; do
        id=$(model_id "$model")
        echo "cd /models/.retired/$id || exit 0"
        echo "for version in *; do rm -rf \"../../$id/\$version\" \"../../.complete/$id/\$version\" && mv \"\$version\" ../../$id/; done"
        echo "rm -f /models/.restart/$id"
    done >"$work/restore"
    [ ! -s "$work/restore" ] || in_volumes <"$work/restore"
}

note_failure() {
    echo "$1" >>"$work/failed"
    say "    $1: $2"
}

# ---- the whole ----

pull_images() {
    compose config --images | sort -u >"$work/images"
    while read -r image; do
        if [ -z "$pull" ] && docker image inspect "$image" >/dev/null 2>&1; then
            continue
        fi
        say "==> pulling $image"
        if ! docker pull -q "$image" >/dev/null 2>"$work/log"; then
            docker image inspect "$image" >/dev/null 2>&1 ||
                fail "$image cannot be pulled, and no container was changed: $(tail -n 1 "$work/log")"
            say "    it cannot be pulled; the one on this host is used"
        fi
    done <"$work/images"
}

# Fetches the models, and has the running engines load them.
download_models() {
    say '==> fetching models'
    run_download -e KEEP_PINS="$kept" model_download </dev/null ||
        fail 'model_download failed, and no container was changed; its messages are above'
    for noted in "$folder"/.restart/*; do
        [ ! -e "$noted" ] || echo "s${noted##*/}s"
    done >"$work/restarts"
}

# Prints what would change.
show_plan() {
    while read -r target _ _ update _ identity store source; do
        marker=$folder/.complete/${target%%/*}/${target#*/}
        if [ ! -e "$marker" ] || [ "$(cat "$marker")" != "$identity" ]; then
            say "fetch    $target from $source ($update)"
            [ "$store" = - ] || [ -e "creds/bundle/$store.env" ] ||
                say "         it needs the credentials of store $store in creds/bundle/$store.env"
        fi
    done <"$list"
    while read -r service _; do
        if ! grep -q "^$service " "$work/before"; then
            say "start    $service"
        elif grep -q "^$service " "$work/outdated"; then
            say "replace  $service"
        fi
    done <"$work/hashes"
    cut -d ' ' -f 1 "$work/before" | sort -u | while read -r service; do
        grep -q "^$service " "$work/hashes" || say "remove   $service"
    done
}

# Starts what is not running, and removes the services that left. Services that failed stay as they are.
start_all() {
    say '==> starting what is new, removing what has left'
    options=
    if cut -d ' ' -f 1 "$work/moved" | grep -qxF -e " " -f "$work/failed"; then
        # model_download would publish a map without the containers that stay.
        options=--no-deps
        echo model_download >>"$work/left-out"
    fi
    cat "$work/failed" >>"$work/left-out"
    cut -d ' ' -f 1 "$work/hashes" | grep -vxF -e " " -f "$work/left-out" >"$work/services"
    # Each name is an argument, and so is the option.
    # shellcheck disable=SC2046,SC2086
    compose up -d --remove-orphans $options $(cat "$work/services") >"$work/log" 2>&1 || {
        tail -n 5 "$work/log"
        note_failure 'the project' 'docker compose up failed; its last lines are above'
    }
    [ ! -s "$work/restarts" ] || restore_files
}

# Waits until every container is healthy, and prints what became of each service.
report() {
    containers '' >"$work/after"
    began=$(date +%s)
    printf '\n%-32s %-10s %s\n' SERVICE CONTAINER HEALTH
    while read -r service id _; do
        what=started
        if grep -q "^$service $id" "$work/before"; then
            what=kept
        elif grep -q "^$service " "$work/before"; then
            what=replaced
        fi
        if [ "$(docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$id" 2>/dev/null)" = 'exited 0' ]; then
            state=finished
        elif [ -e "$folder/.missing/$(model_id "$service")" ]; then
            note_failure "$service" 'its model is missing; model_download says why'
            state=$(health "$id")
        else
            if ! await_healthy "$id" "$service" $(($(date +%s) - began)); then
                note_failure "$service" "it is not healthy ($(condition "$id")); see: docker compose logs $service"
                report_lack_of_memory "$id" "$service"
            fi
            state=$(health "$id")
        fi
        printf '%-32s %-10s %s\n' "$service" "$what" "$state"
    done <"$work/after"
    cut -d ' ' -f 1 "$work/before" | sort -u | while read -r service; do
        grep -q "^$service " "$work/after" || printf '%-32s %-10s %s\n' "$service" removed -
    done
}

# Has engines that were starting while their models were fetched load them.
load_late() {
    for noted in "$folder"/.load/*; do
        if [ -e "$noted" ]; then
            say '==> loading what was fetched while its engine was starting'
            run_download model_download </dev/null || note_failure model_download 'its messages are above'
            return
        fi
    done
}

main() {
    dry_run='' pull='' timeout=600 timeout_given='' skipped='' filtered='' router=''
    while [ "$#" -gt 0 ]; do
        case $1 in
            --dry-run) dry_run=yes ;;
            --pull) pull=yes ;;
            --timeout | --skip-override-of)
                [ "$#" -ge 2 ] || refuse "$1 needs a value"
                case $1 in
                    --timeout) timeout=$2 timeout_given=yes ;;
                    *) skipped="$skipped $2" ;;
                esac
                shift
                ;;
            -h | --help) usage; exit 0 ;;
            *) refuse "$1 is not an option" ;;
        esac
        shift
    done
    case $timeout in
        '' | *[!0-9]*) refuse "--timeout is a number of seconds, and not '$timeout'" ;;
    esac
    [ -f ../base/bundle/docker-compose.yaml ] ||
        fail "call it in a deployment directory, which is beside /base: $(pwd)/../base/bundle/docker-compose.yaml is not there"
    list=../base/model-serving/model-download/models.txt
    folder=../base/model-serving/model-download/models
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    : >"$work/failed"

    say '==> checking this host'
    check_tools
    [ -z "$skipped" ] || filter_override
    check_project
    check_host
    project=$(sed -n 's/^name: //p' "$work/project" | tr -d '"')
    compose config --hash '*' >"$work/hashes" 2>"$work/log" || fail "$(tail -n 1 "$work/log")"
    sed -n 's/^\([^ /#]*\).*/s\1s/p' "$list" >"$work/models"
    containers '' >"$work/before"
    outdated >"$work/outdated"
    if [ -n "$dry_run" ]; then
        show_plan
        exit 0
    fi
    pull_images
    pin_moved
    download_models
    update_router
    update_models
    start_all
    report
    load_late
    if [ -s "$work/failed" ]; then
        fail "not updated: $(sort -u "$work/failed" | tr '\n' ' ')"
    fi
    say 'the deployment is up to date'
}

# The file may be replaced while it runs, so the shell has to have read all of it.
main "$@"; exit
