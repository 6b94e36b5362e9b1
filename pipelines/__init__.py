"""SERM's KFP pipelines; ``compiled/`` holds their IR YAML, which runs on a cluster and in ``kfp.local`` alike."""
