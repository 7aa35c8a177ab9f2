"""One statement on a connection of its own."""
import psycopg2


def query(dsn, text, *args):
    """The rows, or how many were changed."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(text, args or None)
            return cursor.fetchall() if cursor.description else cursor.rowcount
    finally:
        connection.close()
