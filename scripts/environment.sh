# Sourced by the other scripts. Creates .venv and installs the project with pinned versions, once.
#   make_environment [EXTRAS]     EXTRAS such as [dev]; sets PYTHON
#   find_browser                  installs Chromium if it is missing and can be installed
# Uses $PYTHON_BIN, or else the first Python 3.11 to 3.13 on the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in "${PYTHON_BIN:-}" python3.13 python3.12 python3.11 python3 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: needs Python 3.11, 3.12 or 3.13 (set PYTHON_BIN to one); found none" >&2
  return 2
}

make_environment() {
  local extras=${1:-} python files stamp=.venv/installed
  # the installation depends only on these files; [dev] includes every other extra
  files=$(cat pyproject.toml constraints.txt | cksum)
  PYTHON=$PWD/.venv/bin/python
  if "$PYTHON" -m pip --version >/dev/null 2>&1 && [ -f "$stamp" ] &&
    grep -qxF -e "$files $extras" -e "$files [dev]" "$stamp"; then
    return
  fi
  python=$(find_python) || return
  echo "installing into .venv (about two minutes, once) ..." >&2
  "$PYTHON" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".$extras"
  echo "$files $extras" >"$stamp"
}

# The report's tests open it in Chromium. As root on Debian, a missing Chromium is installed. Without
# it those tests are skipped, with the reason, so a failure here is no error.
find_browser() {
  if command -v chromium chromium-browser google-chrome >/dev/null; then return; fi
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
  echo "installing Chromium for the report's tests (half a minute, once) ..." >&2
  export DEBIAN_FRONTEND=noninteractive
  timeout 300 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' \
    >/dev/null 2>&1 || echo "Chromium could not be installed: tests that need it are skipped" >&2
}
