#!/usr/bin/env bash
# Write each image's lock file, or those that are named: exact versions within constraints.txt, each with the hashes of its files. torch is the build
# without CUDA, from PyTorch's own index; FIND_LINKS may name a folder that has its wheel.
set -euo pipefail
cd "$(dirname "$0")/../.."
for image in ${*:-data train judge serve}; do
    extras=(--extra "$image")
    [ "$image" = data ] || extras+=(--extra s3) # its steps read and write what KFP brought, and no DVC
    [ "$image" = train ] && extras+=(--extra drift) # it embeds queries, and draws with Evidently
    uv pip compile pyproject.toml components/images/requirements.in "${extras[@]}" \
        --constraint constraints.txt \
        --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        ${FIND_LINKS:+--find-links "$FIND_LINKS"} --index-strategy unsafe-best-match \
        --extra-index-url https://download.pytorch.org/whl/cpu \
        --generate-hashes --no-annotate --no-header --quiet --output-file "components/images/$image/requirements.txt"
done
