# Sourced by the other scripts, in the root of the repository: one .venv, installed once.
if [ ! -x .venv/bin/python ]; then
    ${PYTHON:-python3} -m venv .venv
fi
source .venv/bin/activate
if ! cmp -s requirements.txt .venv/installed.txt; then
    python -m pip install -q -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi

# memory in huge pages, where glibc can: a tenth faster
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
