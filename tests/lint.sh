#!/bin/sh
# Who may include whom, and which functions nobody may call.
set -u
cd "$(dirname "$0")/.." || exit 2
bad=0
deny() { # deny WHY PATTERN FILE...
    why=$1 pattern=$2
    shift 2
    if grep -nE "$pattern" "$@" /dev/null; then
        echo "lint: $why" >&2
        bad=1
    fi
}
others() { find lib api worker scheduler tests -name '*.[ch]' | grep -vE "$1"; }

deny 'a program never includes another'      '#include "(\.\./|worker/|scheduler/|api/)' $(others '^$')
deny 'libpq is included by lib/pg.h alone'   '#include <libpq'  $(others '^lib/pg\.h')
deny 'libcurl by lib/http.h alone'           '#include <curl/'  $(others '^lib/http\.h')
deny 'cJSON by lib/json.h alone'             '#include <cjson/' $(others '^lib/json\.h')
deny 'llhttp and wslay by lib/httpd alone'   '#include <(llhttp|wslay)' $(others '^lib/httpd')
deny 'OpenSSL by lib/hash.c alone'           '#include <openssl/' $(others '^lib/hash\.c')
deny 'PQ* is called in lib/ alone'           '\bPQ[a-z][A-Za-z]+ ?\(' $(others '^(lib|tests)/')
deny 'statements are named in lib/store alone' '\bSQL_[A-Z]+_' $(others '^(lib/store|lib/pg|tests/)')
deny 'the command line speaks HTTP only; pg is for migrate, doctor and dev' '#include "store(\.|_[^d]|_d[^o])' api/cli/*.[ch]
deny 'state is written by *_enter() alone'   '(->|\.)state = ' $(grep -LE '_enter\(struct' $(others '^tests/'))
deny 'banned function' '(^|[^_a-zA-Z0-9>.])(strcpy|strcat|strncpy|strncat|sprintf|vsprintf|strtok|atoi|atol|atof|gets|gmtime|localtime|asctime|ctime|sleep|usleep|system|popen) ?\(' $(others '^$')
deny 'memory comes from lib/mem'             '(^|[^_a-zA-Z0-9])(malloc|calloc|realloc|strdup|strndup|asprintf) ?\(' $(others '^(lib/mem\.c|tests/)')
deny 'daemons do not print'                  '(^|[^_a-zA-Z0-9])(printf|puts|putchar) ?\(' $(others '^(tests/|api/cli/)')
deny 'no SQL text in C'                      '"(select|insert|update|delete) [a-z*]' $(others '^tests/')
exit $bad
