#!/usr/bin/env bash
# Builds sdist and wheel into dist/, checks them, and tries the wheel on every Python at hand.
# Uploads nothing. `make release` calls it; PYTHONS="3.11" tries fewer.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${1:-.venv/bin/python}
pythons=${PYTHONS:-3.11 3.12 3.13} # what pyproject.toml allows
work=$root/build/release

rm -rf "$work" dist
mkdir -p "$work" dist
# Times in the archives are those of the commit: who builds it again from the commit gets the same bytes.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
for out in dist "$work/again"; do
  "$python" -m build --outdir "$out" . > "$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
done
cmp dist/*.whl "$work"/again/*.whl || { echo "two builds gave different wheels"; exit 1; }
unset SOURCE_DATE_EPOCH
sha256sum dist/*.whl
"$python" -m twine check --strict dist/*
wheel=$(ls dist/*.whl)
version=$(basename "$wheel" | cut -d- -f2)
grep -q "^## $version" CHANGELOG.md \
  || echo "note: CHANGELOG.md has no heading for $version yet: rename 'Unreleased' before tagging"

# The interpreter of a version, from the path or from pyenv; nothing where there is none.
interpreter() {
  for one in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do
    if [ "$("$one" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null)" = "$1" ]; then
      command -v "$one"
      return
    fi
  done
}

# Installs the wheel into a new environment and runs it from outside of the checkout, in a home of its own.
try() {
  local bin=$work/$1/bin
  "$2" -m venv "$work/$1" || return
  local pip=("$bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/constraints.txt")
  "${pip[@]}" torch || return
  "${pip[@]}" "$root/$wheel" || return
  "$bin/python" -m pip check || return
  mkdir "$work/$1/home"
  cp -r "$root/examples/solubility" "$work/$1/job" || return
  cd "$work/$1/home" || return
  export BLINDSUM_HOME=$PWD RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
  [ "$("$bin/blindsum" --version)" = "blindsum $version" ] || return
  "$bin/blindsum" --help || return
  "$bin/blindsum" init job.yaml || return
  "$bin/blindsum" check ../job/job.yaml || return
  "$bin/blindsum" run ../job/job.yaml --set training.rounds=2 || return
}

report=() failed=0 passed=0
for one in $pythons; do
  found=$(interpreter "$one")
  if [ -z "$found" ]; then
    report+=("Python $one: not found, NOT tried")
  elif (try "$one" "$found") > "$work/$one.log" 2>&1; then
    report+=("Python $one: passed ($("$found" --version))")
    passed=1
  else
    report+=("Python $one: FAILED, see build/release/$one.log")
    failed=1
  fi
  rm -rf "${work:?}/$one"
done
printf '%s\n' dist/* "${report[@]}"
[ "$failed" = 0 ] && [ "$passed" = 1 ]
