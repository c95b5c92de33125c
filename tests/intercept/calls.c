/* System calls for tests/intercept.rs to make inside: each prints 0 or errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static volatile int over;
static char path[64], name[64], value[2];

/* Writes one text and the other over each other while calls read them. */
static void *flip(void *unused)
{
    while (!over) {
        strcpy(path, "/tmp/a/one");
        strcpy(name, "trusted.overlay.opaque");
        value[0] = 'y';
        /* The compiler must not leave out what is written over. */
        __asm__ volatile("" ::: "memory");
        strcpy(path, "/tmp/b/two");
        strcpy(name, "trusted.overlay.redire");
        value[0] = 'n';
        __asm__ volatile("" ::: "memory");
    }
    return unused;
}

/* Calls on and on, from eight processes. */
static void flood(const char *where)
{
    fork();
    fork();
    fork();
    for (;;)
        mknod(where, S_IFCHR | 0666, makedev(1, 3));
}

static void say(int result)
{
    printf("%d\n", result ? errno : 0);
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "setxattr") && count == 5) {
        say(setxattr(words[2], words[3], words[4], strlen(words[4]), 0));
    } else if (!strcmp(what, "mknod") && count == 5) {
        say(mknod(words[2], S_IFCHR | 0666, makedev(atoi(words[3]), atoi(words[4]))));
    } else if (!strcmp(what, "at")) {
        int dir = open(words[2], O_PATH | O_DIRECTORY);
        say(mknodat(dir, words[3], S_IFCHR | 0666, makedev(1, 3)));
    } else if (!strcmp(what, "as")) {
        if (setgid(1000) || setuid(1000))
            return 1;
        say(mknod(words[2], S_IFCHR | 0666, makedev(1, 3)));
    } else if (!strcmp(what, "fifo")) {
        struct sched_param param = { .sched_priority = 5 };
        say(sched_setscheduler(0, SCHED_FIFO, &param));
        printf("%d\n", sched_getscheduler(0));
    } else if (!strcmp(what, "sysinfo")) {
        struct sysinfo info;
        say(sysinfo(&info));
        printf("%llu %ld\n", (unsigned long long)info.totalram * info.mem_unit, info.uptime);
    } else if (!strcmp(what, "bad")) {
        say(mknod((const char *)8, S_IFCHR | 0666, makedev(1, 3)));
    } else if (!strcmp(what, "mount") && count == 7) {
        /* source, target, type, flags, data */
        say(mount(words[2], words[3], words[4], strtoul(words[5], NULL, 0), words[6]));
    } else if (!strcmp(what, "flood")) {
        flood("/tmp/flood");
    } else if (!strcmp(what, "stall")) {
        /* A file system that nobody serves: who asks it waits. */
        char data[64];
        sprintf(data, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", open("/dev/fuse", O_RDWR));
        if (mount("x", words[2], "fuse", 0, data))
            return 1;
        flood(strcat(strcpy(path, words[2]), "/x"));
    } else if (!strcmp(what, "race")) {
        pthread_t other;
        int i;
        flip((over = 1, NULL));
        over = 0;
        strcpy(path, "/tmp/a/one");
        pthread_create(&other, NULL, flip, NULL);
        for (i = 0; i < 100; i++) {
            mknod(path, S_IFCHR | 0666, makedev(1, 3));
            setxattr("/tmp/x", name, value, 1, 0);
        }
        over = 1;
        pthread_join(other, NULL);
        say(0);
    } else {
        return 2;
    }
    return 0;
}
