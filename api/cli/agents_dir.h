/* A folder of agent definitions: NAME.json each, checked before anything is sent. */
#pragma once

#include "buf.h"
#include "err.h"

#include <stdio.h>

/*
 * Read every *.json of `dir` and write {"agents":{NAME:definition,...}} into `body`; `*ret_n` is
 * how many there are. Each mistake is a line on `out`: FILE: POINTER: what was expected. -1 when
 * there was one, or the folder cannot be read (`err`).
 */
int agents_dir_read(const char *dir, FILE *out, struct buf *body, int *ret_n, struct err *err);
