from stream_processors.cli import process

process()
