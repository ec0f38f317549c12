# Sourced by bin/adamctl and bin/test: finds Python, makes .venv on first use, and does nothing the second time.
# A stamp inside .venv, written last, says for what it was made; anything else is completed or made again.

adam_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
adam_venv="$adam_root/.venv"
export PYTHONSAFEPATH=1 # a folder named `watchdog` in the current directory must shadow nothing

adam_say() {
  printf 'adam: %s\n' "$*" >&2
}

adam_die() {
  adam_say "$*"
  exit 1
}

# What .venv depends on. The interpreter's real path changes when the system's Python does; the checkout's path is in the
# editable install.
adam_wanted_stamp() {
  printf '%s\n%s\n' "$adam_root" "$(readlink -f "$adam_venv/bin/python")"
  printf '%s\n' "$(<"$adam_root/pyproject.toml")" "$(<"$adam_root/constraints.txt")"
}

# adam_is_made core|dev
adam_is_made() {
  local stamp="$adam_venv/adam-$1.stamp"
  [[ -x "$adam_venv/bin/python" && -f "$stamp" && "$(<"$stamp")" == "$(adam_wanted_stamp)" ]]
}

adam_find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  adam_die "no Python 3.11 or later found; install it (apt-get install python3 python3-venv) or name it: PYTHON=/path/to/python3"
}

adam_make_venv() {
  local python
  python=$(adam_find_python) || exit 1
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    adam_die "$python can't make virtual environments; install the module: apt-get install python3-venv"
  "$python" -m venv --clear "$adam_venv" || adam_die "making $adam_venv failed; run the command again to retry"
}

# torch comes first and alone, so that the index of its build can be named; what it needs comes with the rest.
adam_install() {
  local extras=$1 pip=("$adam_venv/bin/python" -m pip --disable-pip-version-check --quiet) torch
  torch=$(grep '^torch==' "$adam_root/constraints.txt")
  adam_say "installing $torch${ADAM_TORCH_INDEX:+ from $ADAM_TORCH_INDEX}"
  "${pip[@]}" install --no-deps ${ADAM_TORCH_INDEX:+--index-url "$ADAM_TORCH_INDEX"} "$torch" ||
    adam_die "installing $torch failed; run the command again to go on from here"
  adam_say "installing the other libraries"
  "${pip[@]}" install -c "$adam_root/constraints.txt" -e "$adam_root$extras" ||
    adam_die "installing the libraries failed; run the command again to go on from here"
}

adam_announce() {
  adam_say "first use: making $adam_venv (2 to 15 minutes, about 1.5 GB with torch for CPUs, 7 GB with torch for NVIDIA GPUs)"
  adam_say "it can be interrupted and run again at any time"
  if [[ -z "${ADAM_TORCH_INDEX:-}" && ! -e /dev/nvidiactl ]]; then
    adam_say "there is no NVIDIA GPU here: ADAM_TORCH_INDEX=https://download.pytorch.org/whl/cpu gets the small CPU build of torch"
  fi
}

adam_stamp() {
  adam_wanted_stamp >"$adam_venv/adam-$1.stamp.new"
  mv "$adam_venv/adam-$1.stamp.new" "$adam_venv/adam-$1.stamp"
}

# adam_ensure_venv core|dev: only one process makes it; the others wait for it at the lock on the checkout's directory.
adam_ensure_venv() {
  local kind=$1
  adam_is_made "$kind" && return
  exec 9<"$adam_root"
  if ! flock --nonblock 9; then
    adam_say "another process is making $adam_venv; waiting for it"
    flock 9
  fi
  if ! adam_is_made "$kind"; then
    adam_announce
    rm -f "$adam_venv"/adam-*.stamp
    "$adam_venv/bin/python" -m pip --version >/dev/null 2>&1 || adam_make_venv
    adam_install "$([[ "$kind" == dev ]] && echo '[dev]')"
    adam_stamp core
    [[ "$kind" == core ]] || adam_stamp "$kind"
    adam_say "done"
  fi
  exec 9<&-
}
