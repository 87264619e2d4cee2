"""PostgreSQL as a store: the extra ``postgres``. Nothing outside imports ``psycopg``."""
