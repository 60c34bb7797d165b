"""The doctor's checks: what can be wrong between this library and what it runs on, found before a patient finds it.

`store` asks what every store can tell, and looks at a SQLite file; `server` asks a Redis or Valkey, `upstream` the
upstream. They change nothing but a key that no patient has, and never send a kick-off, a login or a status call.
"""
