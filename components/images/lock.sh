#!/usr/bin/env bash
# Write each image's lock file, or those that are named: exact versions within constraints.txt, each with the hashes of
# its files. torch is the build without CUDA, from PyTorch's own index, or from the folder FIND_LINKS that has its wheel.
set -euo pipefail
cd "$(dirname "$0")/../.."
torch=(--extra-index-url https://download.pytorch.org/whl/cpu)
[ -z "${FIND_LINKS:-}" ] || torch=(--find-links "$FIND_LINKS")
for image in ${*:-data train judge serve}; do
    wanted=(pyproject.toml components/images/requirements.in --extra "$image")
    case $image in
        judge) wanted+=(--extra s3) ;;
        train) wanted+=(--extra s3 --extra drift --extra serve) ;; # drift's figures; evaluate and deploy try the server
        serve) wanted=(pyproject.toml --extra serve --extra s3) ;; # no step runs there: no KFP
    esac # data's steps read and write what KFP brought, and no DVC
    uv pip compile "${wanted[@]}" \
        --constraint constraints.txt \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 --index-strategy unsafe-best-match \
        "${torch[@]}" \
        --generate-hashes --no-annotate --no-header --quiet --output-file "components/images/$image/requirements.txt"
done
