"""A workspace: a git and DVC repository of which every cycle is one commit and one tag that pins each byte.

The only room that knows its git and DVC commands (``store``), who writes in it (``lock``) and how a cycle is run in it
(``runner``). Its paths are ``serm.layout``'s. The command line, the components, the pages and the exporter call it.
"""
