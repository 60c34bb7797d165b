"""Workers run the steps that flows hand over, off the login path.

`threads` is the default: a pool in the login process. `tasks` is the same for asyncio. `celery` hands over to workers
on other machines, by way of a broker. `inline` runs each step at once, for tests and scripts. `gate` is no worker: it
keeps the login hook within its budget, whatever the store and the worker do.
"""
