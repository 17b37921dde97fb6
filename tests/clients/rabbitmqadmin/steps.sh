# Steps of a walk through a command line tool, written as TAP. Sourced by a script that defines `admin`, which runs the tool
# with its arguments; `folder` is for files and goes with the script.
count=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# step NAME WANTED ARGUMENT...: the command succeeds and its output holds what is wanted.
step() {
    name=$1
    wanted=$2
    shift 2
    if output=$(admin "$@"); then
        holds "$name" "$wanted" "$output"
    else
        failed "$name" "$output"
    fi
}

# holds NAME WANTED OUTPUT: nothing may be wanted.
holds() {
    case $3 in
    *"$2"*) passed "$1" ;;
    *) failed "$1" "$3" ;;
    esac
}

passed() {
    count=$((count + 1))
    echo "ok $count - $1"
}

failed() {
    count=$((count + 1))
    echo "not ok $count - $1"
    printf '%s\n' "$2" | sed 's/^/# /'
}

# refused NAME WANTED ARGUMENT...: the command fails, and its output holds what is wanted.
refused() {
    name=$1
    wanted=$2
    shift 2
    if output=$(admin "$@"); then
        failed "$name" "$output"
    else
        holds "$name" "$wanted" "$output"
    fi
}
