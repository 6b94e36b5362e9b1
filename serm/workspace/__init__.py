"""A workspace: a git and DVC repository of which every cycle is one commit and one tag that pins each byte.

The only room that knows a workspace's paths (``layout``), its git and DVC commands (``store``) and how a cycle is run
in it (``runner``). The command line, the components, the pages and the exporter call it.
"""
