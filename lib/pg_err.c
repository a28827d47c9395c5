#include "pg.h"

#include <stdio.h>
#include <string.h>

/* What a SQLSTATE means to the caller. */
static enum err_code err_code_of(const char *sqlstate)
{
    static const struct {
        const char *prefix;
        enum err_code code;
    } codes[] = {
        {"NT400", ERR_INVALID    },
        {"NT404", ERR_NOT_FOUND  },
        {"NT",    ERR_CONFLICT   },
        {"23",    ERR_CONFLICT   },
        {"22",    ERR_INVALID    },
        {"40",    ERR_UNAVAILABLE}, /* deadlock, serialization: try again */
        {"08",    ERR_UNAVAILABLE},
        {"0A",    ERR_UNAVAILABLE}, /* the two of is_stale() */
        {"26",    ERR_UNAVAILABLE},
        {"25006", ERR_UNAVAILABLE}, /* read only: a standby, for now */
        {"53",    ERR_UNAVAILABLE},
        {"55",    ERR_UNAVAILABLE},
        {"57",    ERR_UNAVAILABLE},
        {"58",    ERR_UNAVAILABLE},
    };

    for (size_t i = 0; i < sizeof(codes) / sizeof(*codes); i++)
        if (!strncmp(sqlstate, codes[i].prefix, strlen(codes[i].prefix)))
            return codes[i].code;
    return ERR_BUG;
}

void pg_result_err(struct err *err, const PGresult *res, char *ret_sqlstate)
{
    const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

    snprintf(ret_sqlstate, 6, "%s", sqlstate ? sqlstate : "08000");
    if (!strncmp(ret_sqlstate, "NT", 2))
        err_set(err, err_code_of(ret_sqlstate), "%.230s", message ? message : "");
    else
        err_set(err, err_code_of(ret_sqlstate), "postgres: %.200s (%s)",
                message ? message : PQresultErrorMessage(res), ret_sqlstate);
}
