"""What every command does, as a function that takes options and returns a record.

Each command is a file or folder of its name: ``kdnas export`` is ``export.py``, ``kdnas search`` is ``search``, and
``kdnas table build`` is ``table/build.py``. In a folder, ``__init__.py`` has the function, ``options.py`` its options,
``loop.py`` its work, and ``result.py`` what it returns. Commands share ``options.py``, ``work.py`` and ``limits.py``.
"""
