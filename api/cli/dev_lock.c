#include "dev_lock.h"

#include "mem.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

int dev_lock_take(struct dev_lock *lock, const char *dir, struct err *err)
{
    char *path = xasprintf("%s/lock", dir), text[32] = "";
    ssize_t len;

    *lock = (struct dev_lock){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    free(path);
    if (lock->fd < 0)
        return err_set(err, ERR_INVALID, "%.150s/lock: %s", dir, strerror(errno));
    len = pread(lock->fd, text, sizeof(text) - 1, 0);
    text[len > 0 ? len : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
        close(lock->fd);
        lock->fd = -1;
        return err_set(err, ERR_CONFLICT, "another nocturne dev (pid %s) runs on %.150s",
                       *text ? text : "?", dir);
    }
    lock->unclean = *text != '\0';
    len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    if (ftruncate(lock->fd, 0) < 0 || pwrite(lock->fd, text, (size_t)len, 0) != len)
        return err_set(err, ERR_INVALID, "%.150s/lock: %s", dir, strerror(errno));
    return 0;
}

void dev_lock_leave(struct dev_lock *lock)
{
    if (lock->fd < 0)
        return;
    if (!lock->kept)
        (void)!ftruncate(lock->fd, 0); /* the next one only looks a little longer */
    close(lock->fd);
    lock->fd = -1;
}

/* "[::1]:8700" -> "::1" and "8700"; -1 when it is not HOST:PORT. */
static int split(const char *listen, char **ret_host, char **ret_port)
{
    const char *colon = strrchr(listen, ':');
    char *end;
    long port;

    if (!colon || colon == listen)
        return -1;
    port = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || *end || port < 0 || port > 65535)
        return -1;
    if (*listen == '[' && colon[-1] == ']')
        *ret_host = xmemdup(listen + 1, (size_t)(colon - listen - 2));
    else
        *ret_host = xmemdup(listen, (size_t)(colon - listen));
    *ret_port = xstrdup(colon + 1);
    return 0;
}

/* Listen for a moment, as the API will. 0: free, its port is in `*ret_port`; else an errno. */
static int try_listen(const struct addrinfo *at, int *ret_port)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in; /* sin6_port stands at the same place */
        struct sockaddr_in6 in6;
    } name = {.in6 = {0}};
    socklen_t len = sizeof(name);
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, why = 0;

    if (fd < 0)
        return errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* as libuv does */
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, 1) < 0 ||
        getsockname(fd, &name.any, &len) < 0)
        why = errno;
    close(fd);
    *ret_port = ntohs(name.in.sin_port);
    return why;
}

int dev_listen_check(const char *listen, char **ret_listen, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char *host = NULL, *port = NULL;
    int why, got = 0, rc = 0;

    if (split(listen, &host, &port) < 0)
        return err_set(err, ERR_INVALID, "\"%.60s\" is not HOST:PORT", listen);
    why = getaddrinfo(host, port, &hints, &found);
    if (why != 0 || !found)
        rc = err_set(err, ERR_INVALID, "%.60s: %s", host, gai_strerror(why));
    else if ((why = try_listen(found, &got)) != 0)
        rc = err_set(err, why == EADDRINUSE ? ERR_CONFLICT : ERR_INVALID, "%.60s: %s%s", listen,
                     strerror(why), why == EADDRINUSE ? ", is another nocturne running?" : "");
    else
        *ret_listen = xasprintf("%.*s:%d", (int)(strrchr(listen, ':') - listen), listen, got);
    if (found)
        freeaddrinfo(found);
    free(host);
    free(port);
    return rc;
}
