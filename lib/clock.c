#include "clock.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_DURATION_MS (3650ULL * 24 * 3600 * 1000)

uint64_t clock_mono_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t clock_mono_ms(void)
{
    return clock_mono_us() / 1000;
}

uint64_t clock_boot_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int64_t clock_wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The seconds of the last stamp stand already: most are of the same one. Each process has one
 * thread. */
static char *put_stamp(int64_t wall_us, int digits, char *ret_text)
{
    static char last[CLOCK_STAMP_BYTES];
    static size_t len;
    static time_t last_seconds;
    time_t seconds = (time_t)(wall_us / 1000000);
    int us = (int)(wall_us % 1000000);
    char *end;
    struct tm utc;

    if (seconds != last_seconds || len == 0) {
        gmtime_r(&seconds, &utc);
        len = strftime(last, sizeof(last), "%Y-%m-%dT%H:%M:%S.", &utc);
        last_seconds = seconds;
    }
    memcpy(ret_text, last, len);
    end = ret_text + len;
    for (int unit = 100000; digits > 0; digits--, unit /= 10)
        *end++ = (char)('0' + us / unit % 10);
    memcpy(end, "Z", 2);
    return ret_text;
}

char *clock_stamp(int64_t wall_us, char *ret_text)
{
    return put_stamp(wall_us, 3, ret_text);
}

char *clock_stamp_us(int64_t wall_us, char *ret_text)
{
    return put_stamp(wall_us, 6, ret_text);
}

/* Does `text` begin like `shape`, where 0 is any digit? */
static bool has_shape(const char *text, const char *shape)
{
    for (; *shape; shape++, text++)
        if (*shape == '0' ? !isdigit((unsigned char)*text) : *text != *shape)
            return false;
    return true;
}

/* The first `digits` characters, known to be digits. sscanf() would take blanks and signs too. */
static int number(const char *text, int digits)
{
    int n = 0;

    while (digits-- > 0)
        n = n * 10 + (*text++ - '0');
    return n;
}

/* The zone behind the seconds: Z or +hh:mm. */
static int parse_zone(const char *text, int *ret_minutes)
{
    int hours, minutes;

    if ((text[0] == 'Z' || text[0] == 'z') && !text[1]) {
        *ret_minutes = 0;
        return 0;
    }
    if ((text[0] != '+' && text[0] != '-') || !has_shape(text + 1, "00:00") || text[6])
        return -1;
    hours = number(text + 1, 2);
    minutes = number(text + 4, 2);
    if (hours > 23 || minutes > 59)
        return -1;
    *ret_minutes = (hours * 60 + minutes) * (text[0] == '-' ? -1 : 1);
    return 0;
}

/* timegm() would make the 1st of March of the 30th of February. */
static bool is_day(const struct tm *utc)
{
    struct tm day = {.tm_year = utc->tm_year, .tm_mon = utc->tm_mon, .tm_mday = utc->tm_mday};

    timegm(&day);
    return utc->tm_mon >= 0 && utc->tm_mon < 12 && day.tm_mday == utc->tm_mday;
}

/* The 19 characters up to the seconds. */
static int parse_seconds(const char *text, struct tm *utc)
{
    if (!has_shape(text, "0000-00-00") || !text[10] || !strchr("Tt ", text[10]) ||
        !has_shape(text + 11, "00:00:00"))
        return -1;
    utc->tm_year = number(text, 4) - 1900;
    utc->tm_mon = number(text + 5, 2) - 1;
    utc->tm_mday = number(text + 8, 2);
    utc->tm_hour = number(text + 11, 2);
    utc->tm_min = number(text + 14, 2);
    utc->tm_sec = number(text + 17, 2);
    if (utc->tm_year < 70 || utc->tm_hour > 23 || utc->tm_min > 59 || utc->tm_sec > 60)
        return -1;
    return is_day(utc) ? 0 : -1;
}

int clock_parse_stamp(const char *text, int64_t *ret_wall_us)
{
    struct tm utc = {0};
    int zone_minutes, micros = 0, digits = 0;
    time_t seconds;

    if (parse_seconds(text, &utc) < 0)
        return -1;
    text += 19;
    if (*text == '.') {
        for (text++; isdigit((unsigned char)*text); text++)
            if (digits++ < 6)
                micros = micros * 10 + (*text - '0');
        if (digits == 0)
            return -1;
        for (; digits < 6; digits++)
            micros *= 10;
    }
    if (parse_zone(text, &zone_minutes) < 0)
        return -1;
    seconds = timegm(&utc) - (time_t)zone_minutes * 60;
    *ret_wall_us = (int64_t)seconds * 1000000 + micros;
    return 0;
}

int clock_parse_duration(const char *text, uint64_t *ret_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {
        {"ms", 1       },
        {"s",  1000    },
        {"m",  60000   },
        {"h",  3600000 },
        {"d",  86400000},
    };
    char *end;
    unsigned long long n;

    if (!isdigit((unsigned char)*text))
        return -1;
    n = strtoull(text, &end, 10);
    for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
        if (!strcmp(end, units[i].unit) && n <= MAX_DURATION_MS / units[i].ms) {
            *ret_ms = n * units[i].ms;
            return 0;
        }
    }
    return -1;
}
