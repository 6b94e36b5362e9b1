#!/usr/bin/env bash
# Build the images, or those that are named: BUILDER is docker, podman or buildah; BASE_IMAGE another base.
set -euo pipefail
cd "$(dirname "$0")/../.."
builder=${BUILDER:-docker}
rm -f dist/*.whl
"${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir dist .
registry=$(sed -n 's/^_REGISTRY = "\(.*\)"/\1/p' components/images.py)
for image in "${@:-data train judge serve}"; do
    for one in $image; do
        tag=$(sed -n "s/^${one^^} = f\"{_REGISTRY}\(.*\)\"/\1/p" components/images.py)
        # shellcheck disable=SC2086 # BUILD_OPTIONS is several words
        $builder build ${BUILD_OPTIONS:-} --file components/images/Dockerfile --build-arg "IMAGE=$one" \
            ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} \
            --build-arg "REVISION=$(git rev-parse HEAD)" --tag "$registry$tag" .
    done
done
