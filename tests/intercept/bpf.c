/* Programs of control groups for tests/bpf.rs to load inside: each prints 0 or errno, a line for each step. The unified
 * hierarchy is mounted at /cg. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int over;

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(SYS_bpf, command, attr, sizeof *attr);
}

static void say(long result)
{
    printf("%d\n", result < 0 ? errno : 0);
    fflush(stdout);
}

static int load(int type, unsigned long long *code, int count)
{
    union bpf_attr attr = {.prog_type = type, .insns = (unsigned long)code, .insn_cnt = count,
                           .license = (unsigned long)"GPL", .prog_name = "device"};
    return bpf(BPF_PROG_LOAD, &attr);
}

static long attach(int command, int group, int program, int flags)
{
    union bpf_attr attr = {.target_fd = group, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE};
    if (command == BPF_PROG_ATTACH)
        attr.attach_flags = flags;
    return bpf(command, &attr);
}

/* /dev/null, from inside a group. */
static void use(const char *group)
{
    pid_t child = fork();
    if (!child) {
        char path[256];
        snprintf(path, sizeof path, "%s/cgroup.procs", group);
        int procs = open(path, O_WRONLY);
        if (write(procs, "0", 1) != 1)
            _exit(99);
        _exit(open("/dev/null", O_RDONLY) < 0 ? errno : 0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%d\n", WEXITSTATUS(status));
    fflush(stdout);
}

static int numbers[2];

static void *flip(void *unused)
{
    while (!over) {
        dup2(numbers[0], 100);
        dup2(numbers[1], 100);
    }
    return unused;
}

int main(int count, char **words)
{
    /* mov r0, 0 or 1; exit */
    unsigned long long none[] = {0xb7, 0x95}, all[] = {0x1000000b7, 0x95};
    /* call bpf_get_current_uid_gid; a jump back, for a while; a store on the stack */
    unsigned long long calls[] = {0x0f00000085, 0x95}, loops[] = {0xb7, 0x100000007, 0x05fffe00a5, 0x95},
                       stores[] = {0xfff80a7a, 0xb7, 0x95};
    const char *what = count > 1 ? words[1] : "";
    const char *group = count > 2 ? words[2] : "/cg/a";
    if (!strcmp(what, "load")) {
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, all, 2));
        say(load(BPF_PROG_TYPE_SOCKET_FILTER, all, 2));
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, calls, 2));
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, loops, 4));
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, stores, 3));
        /* The kernel's own check of what is plain: no answer. */
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, all + 1, 1));
        union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
        say(bpf(BPF_MAP_CREATE, &map));
        say(syscall(SYS_bpf, BPF_PROG_LOAD, 8, 72));
    } else if (!strcmp(what, "user")) {
        if (setgid(1000) || setuid(1000))
            return 1;
        say(load(BPF_PROG_TYPE_CGROUP_DEVICE, all, 2));
    } else if (!strcmp(what, "attach")) {
        int dir = open(group, O_RDONLY | O_DIRECTORY), program = load(BPF_PROG_TYPE_CGROUP_DEVICE, none, 2);
        printf("%d\n", !!(fcntl(program, F_GETFD) & FD_CLOEXEC));
        say(attach(BPF_PROG_ATTACH, dir, program, BPF_F_ALLOW_MULTI));
    } else if (!strcmp(what, "cycle")) {
        int dir = open(group, O_RDONLY | O_DIRECTORY), program = load(BPF_PROG_TYPE_CGROUP_DEVICE, none, 2);
        use(group);
        say(attach(BPF_PROG_ATTACH, dir, program, BPF_F_ALLOW_MULTI));
        use(group);
        say(attach(BPF_PROG_DETACH, dir, program, 0));
        use(group);
        say(attach(BPF_PROG_DETACH, dir, program, 0));
        /* As older engines do: replaced by the next one. */
        say(attach(BPF_PROG_ATTACH, dir, program, BPF_F_ALLOW_OVERRIDE));
        use(group);
        say(attach(BPF_PROG_ATTACH, dir, load(BPF_PROG_TYPE_CGROUP_DEVICE, all, 2), BPF_F_ALLOW_OVERRIDE));
        use(group);
        say(attach(BPF_PROG_DETACH, dir, 0, 0));
        say(attach(BPF_PROG_ATTACH, 99, program, 0));
        say(attach(BPF_PROG_ATTACH, dir, dir, 0));
    } else if (!strcmp(what, "race")) {
        pthread_t other;
        int i, done = 0, program = load(BPF_PROG_TYPE_CGROUP_DEVICE, none, 2);
        numbers[0] = open("/cg/a", O_RDONLY | O_DIRECTORY);
        numbers[1] = open("/cg", O_RDONLY | O_DIRECTORY);
        dup2(numbers[1], 100);
        pthread_create(&other, NULL, flip, NULL);
        for (i = 0; i < 200; i++)
            done += !attach(BPF_PROG_ATTACH, 100, program, BPF_F_ALLOW_MULTI);
        over = 1;
        pthread_join(other, NULL);
        printf("%d\n", done);
    } else {
        return 2;
    }
    return 0;
}
