#!/bin/sh
# Turn SQL files into one C table: embed.sh queries|schema|migrate OUTDIR FILE...
#   queries  sql.h, sql.c: the statement NAME.sql is SQL_NAME in C and NAME as a prepared statement
#   schema   migrations.h, migrations.c: schema/NNN_what.sql in order, with version and name, and
#            functions/NAME.sql as one text
#   migrate  migrate_sql.h, migrate_sql.c: the text of NAME.sql is migrate_sql_NAME
set -eu
kind=$1
out=$2
shift 2

text() { # text FILE: the file as C string literals
    sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/     "&\\n"/' "$1"
}

if [ "$kind" = queries ]; then
    {
        echo '#pragma once'
        echo 'enum sql_stmt {'
        for f; do basename "$f" .sql | tr a-z A-Z | sed 's/.*/    SQL_&,/'; done
        echo '    SQL_COUNT'
        echo '};'
        echo 'struct sql_text { const char *name, *text; };'
        echo 'extern const struct sql_text sql_texts[SQL_COUNT];'
    } > "$out/sql.h"
    {
        echo '#include "sql.h"'
        echo 'const struct sql_text sql_texts[SQL_COUNT] = {'
        for f; do
            printf '    {"%s",\n' "$(basename "$f" .sql)"
            text "$f"
            echo '    },'
        done
        echo '};'
    } > "$out/sql.c"
elif [ "$kind" = migrate ]; then
    {
        echo '#pragma once'
        for f; do echo "extern const char migrate_sql_$(basename "$f" .sql)[];"; done
    } > "$out/migrate_sql.h"
    {
        echo '#include "migrate_sql.h"'
        for f; do
            echo "const char migrate_sql_$(basename "$f" .sql)[] ="
            text "$f"
            echo '    ;'
        done
    } > "$out/migrate_sql.c"
else
    {
        echo '#pragma once'
        echo 'struct schema_migration { int version; const char *name, *text; };'
        echo 'extern const struct schema_migration schema_migrations[];'
        echo 'extern const int schema_migration_count;'
        echo 'extern const char schema_functions[];'
    } > "$out/migrations.h"
    {
        echo '#include "migrations.h"'
        echo 'const struct schema_migration schema_migrations[] = {'
        count=0
        for f; do
            case $f in */functions/*) continue ;; esac
            count=$((count + 1))
            name=$(basename "$f" .sql)
            printf '    {%d, "%s",\n' "$(expr "${name%%_*}" + 0)" "${name#*_}"
            text "$f"
            echo '    },'
        done
        echo '};'
        echo "const int schema_migration_count = $count;"
        echo 'const char schema_functions[] ='
        for f; do
            case $f in */functions/*) text "$f" ;; esac
        done
        echo '    ;'
    } > "$out/migrations.c"
fi
