#include "httpd_scan.h"

#include <string.h>
#include <strings.h>

static bool is_tchar(unsigned char ch)
{
    if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9'))
        return true;
    return ch != '\0' && strchr("!#$%&'*+-.^_`|~", ch) != NULL;
}

bool httpd_is_token(const char *text)
{
    const char *p = text;

    while (is_tchar((unsigned char)*p))
        p++;
    return p != text && *p == '\0';
}

/* One byte of the request line or of a header's value; CR moves on to `lf`. */
static const char *step_text(struct httpd_scan *scan, unsigned char ch, enum httpd_scan_at lf)
{
    bool in_line = scan->at == HTTPD_AT_LINE;

    if (ch == '\r')
        scan->at = lf;
    else if (ch == '\n')
        return "a line ends in a bare LF";
    else if (ch == 0x7f || (ch < 0x20 && (in_line || ch != '\t')) || (ch >= 0x80 && in_line))
        return "a byte that must not be in a request head";
    return NULL;
}

static const char *step_start(struct httpd_scan *scan, unsigned char ch)
{
    if (ch == '\r') {
        scan->at = HTTPD_AT_END_LF;
        return NULL;
    }
    if (ch == ' ' || ch == '\t')
        return "a folded header line";
    if (!is_tchar(ch))
        return "a malformed header name";
    scan->at = HTTPD_AT_NAME;
    scan->fields++;
    return NULL;
}

static const char *step_name(struct httpd_scan *scan, unsigned char ch)
{
    if (ch == ':')
        scan->at = HTTPD_AT_VALUE;
    else if (!is_tchar(ch))
        return "a malformed header name";
    return NULL;
}

static const char *step_lf(struct httpd_scan *scan, unsigned char ch, enum httpd_scan_at next)
{
    if (ch != '\n')
        return "a bare CR";
    scan->at = next;
    return NULL;
}

static const char *scan_step(struct httpd_scan *scan, unsigned char ch)
{
    switch (scan->at) {
    case HTTPD_AT_LINE:
        return step_text(scan, ch, HTTPD_AT_LINE_LF);
    case HTTPD_AT_LINE_LF:
        return step_lf(scan, ch, HTTPD_AT_START);
    case HTTPD_AT_START:
        return step_start(scan, ch);
    case HTTPD_AT_NAME:
        return step_name(scan, ch);
    case HTTPD_AT_VALUE:
        return step_text(scan, ch, HTTPD_AT_VALUE_LF);
    case HTTPD_AT_VALUE_LF:
        return step_lf(scan, ch, HTTPD_AT_START);
    case HTTPD_AT_END_LF:
        return step_lf(scan, ch, HTTPD_AT_END);
    case HTTPD_AT_END:
        break;
    }
    return NULL;
}

int httpd_scan(struct httpd_scan *scan, const char *bytes, size_t len, size_t max_bytes,
               const char **ret_reason)
{
    size_t end = len < max_bytes ? len : max_bytes;
    const char *reason;

    while (scan->pos < end) {
        reason = scan_step(scan, (unsigned char)bytes[scan->pos++]);
        if (reason) {
            *ret_reason = reason;
            return 400;
        }
        if (scan->at == HTTPD_AT_END)
            return HTTPD_SCAN_WHOLE;
        if (scan->fields > HTTPD_MAX_FIELDS) {
            *ret_reason = "too many headers";
            return 431;
        }
    }
    if (len < max_bytes)
        return HTTPD_SCAN_MORE;
    if (scan->at == HTTPD_AT_LINE) {
        *ret_reason = "the request target is too long";
        return 414;
    }
    *ret_reason = "the request head is too large";
    return 431;
}

static int refuse(int status, const char *reason, const char **ret_reason)
{
    *ret_reason = reason;
    return status;
}

/* "HTTP/1.0" and "HTTP/1.1" are spoken; other digits are another version, the rest is noise. */
static int read_version(struct httpd_head *head, const char *version, const char **ret_reason)
{
    if (strncmp(version, "HTTP/", 5) != 0 || strlen(version) != 8 || version[6] != '.' ||
        version[5] < '0' || version[5] > '9' || version[7] < '0' || version[7] > '9')
        return refuse(400, "a request line without a version", ret_reason);
    if (version[5] != '1' || version[7] > '1')
        return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken", ret_reason);
    head->minor = version[7] - '0';
    return 0;
}

/* "http://host/path" is what a proxy gets; a server must take it as well (RFC 9112 3.2.2). */
static char *skip_origin(char *target)
{
    char *host;

    if (strncasecmp(target, "http://", 7) == 0)
        host = target + 7;
    else if (strncasecmp(target, "https://", 8) == 0)
        host = target + 8;
    else
        return NULL;
    host += strcspn(host, "/?");
    return host[-1] == '/' ? NULL : host;
}

static int read_target(struct httpd_head *head, char *target, const char **ret_reason)
{
    char *path = target, *mark;

    if (*target != '/' && !(strcmp(target, "*") == 0 && strcmp(head->method, "OPTIONS") == 0))
        path = skip_origin(target);
    if (!path || strchr(target, '#'))
        return refuse(400, "a malformed request target", ret_reason);
    mark = strchr(path, '?');
    head->query = mark ? mark + 1 : "";
    if (mark)
        *mark = '\0';
    head->path = *path ? path : "/";
    return 0;
}

static int read_line(struct httpd_head *head, char *line, const char **ret_reason)
{
    char *target = strchr(line, ' '), *version = strrchr(line, ' ');
    int status;

    if (!target || version == target)
        return refuse(400, "a malformed request line", ret_reason);
    *target++ = *version++ = '\0';
    if (!httpd_is_token(line) || !*target || strchr(target, ' '))
        return refuse(400, "a malformed request line", ret_reason);
    head->method = line;
    status = read_version(head, version, ret_reason);
    if (status)
        return status;
    if (strcmp(line, "CONNECT") == 0)
        return refuse(501, "this is no proxy", ret_reason);
    return read_target(head, target, ret_reason);
}

/* `line` is "Name: value" with the '\0' where the CR was. */
static void read_field(struct httpd_field *field, char *line)
{
    char *value = strchr(line, ':'), *end;

    *value++ = '\0';
    for (char *p = line; *p; p++)
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p + 'a' - 'A');
    value += strspn(value, " \t");
    end = value + strlen(value);
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    *field = (struct httpd_field){.name = line, .value = value};
}

/* Its only value; one that comes twice is refused even when both are equal. */
static int get_single(const struct httpd_head *head, const char *name, const char **ret_value)
{
    *ret_value = NULL;
    for (size_t i = 0; i < head->field_count; i++) {
        if (strcmp(head->fields[i].name, name) != 0)
            continue;
        if (*ret_value)
            return -1;
        *ret_value = head->fields[i].value;
    }
    return 0;
}

static int check_host(const struct httpd_head *head, const char **ret_reason)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "-._~%!$&'()*+,;=:[]";
    const char *host;

    if (get_single(head, "host", &host) < 0)
        return refuse(400, "more than one Host", ret_reason);
    if (!host && head->minor > 0)
        return refuse(400, "no Host", ret_reason);
    if (host && host[strspn(host, allowed)] != '\0')
        return refuse(400, "a malformed Host", ret_reason);
    return 0;
}

static int check_length(struct httpd_head *head, const char **ret_reason)
{
    const char *length;

    if (get_single(head, "content-length", &length) < 0)
        return refuse(400, "more than one Content-Length", ret_reason);
    if (!length)
        return 0;
    if (!*length || strlen(length) > 18 || length[strspn(length, "0123456789")] != '\0')
        return refuse(400, "a malformed Content-Length", ret_reason);
    for (; *length; length++)
        head->content_length = head->content_length * 10 + (uint64_t)(*length - '0');
    return 0;
}

static int check_coding(struct httpd_head *head, const char **ret_reason)
{
    const char *coding;

    if (get_single(head, "transfer-encoding", &coding) < 0)
        return refuse(400, "more than one Transfer-Encoding", ret_reason);
    if (!coding)
        return 0;
    if (head->minor == 0 || httpd_head_get(head, "content-length"))
        return refuse(400, "Transfer-Encoding where it must not be", ret_reason);
    if (strcasecmp(coding, "chunked") != 0)
        return refuse(501, "the only transfer coding understood is chunked", ret_reason);
    head->chunked = true;
    return 0;
}

static int check_expect(struct httpd_head *head, const char **ret_reason)
{
    const char *expect = httpd_head_get(head, "expect");

    if (!expect || head->minor == 0)
        return 0;
    if (strcasecmp(expect, "100-continue") != 0)
        return refuse(417, "the only expectation understood is 100-continue", ret_reason);
    head->expect_continue = true;
    return 0;
}

int httpd_head_read(struct httpd_head *ret_head, char *text, size_t len, struct httpd_field *fields,
                    const char **ret_reason)
{
    char *line = text, *cr = strchr(text, '\r');
    int status;

    *ret_head = (struct httpd_head){.fields = fields};
    *cr = '\0';
    status = read_line(ret_head, line, ret_reason);
    if (status)
        return status;
    for (line = cr + 2; line < text + len - 2; line = cr + 2) {
        cr = strchr(line, '\r');
        *cr = '\0';
        read_field(&fields[ret_head->field_count++], line);
    }
    if ((status = check_host(ret_head, ret_reason)) ||
        (status = check_length(ret_head, ret_reason)) ||
        (status = check_coding(ret_head, ret_reason)))
        return status;
    return check_expect(ret_head, ret_reason);
}

const char *httpd_head_get(const struct httpd_head *head, const char *lower_name)
{
    for (size_t i = 0; i < head->field_count; i++)
        if (strcmp(head->fields[i].name, lower_name) == 0)
            return head->fields[i].value;
    return NULL;
}

bool httpd_has_token(const char *list, const char *lower_token)
{
    size_t len = strlen(lower_token), n;

    while (list && *list) {
        list += strspn(list, ", \t");
        n = strcspn(list, ", \t");
        if (n == len && strncasecmp(list, lower_token, len) == 0)
            return true;
        list += n;
    }
    return false;
}
