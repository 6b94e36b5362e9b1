"""KFP components, one a step: typed inputs and outputs around one call into ``serm``; no logic of their own."""
