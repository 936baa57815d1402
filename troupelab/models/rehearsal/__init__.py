"""The rehearsal: the scripted model behind an OpenAI-compatible HTTP server, with the latency and the faults of real endpoints.

`process` runs it beside Python code (`tl.Rehearsal`), `command` on the command line (`troupelab rehearse`); `server` answers, with
`settings` (how it behaves), `reading` (what was asked), `replies` and `answers` (what is answered), `counters` (what was seen),
`stats` (what is counted) and `http` (the connections).
"""
