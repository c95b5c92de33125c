/*
 * The public ABI of liblxc 5.0, declared by hand from its facts: order and types of members, names of symbols.
 * struct lxc_container only grows at its end in later versions, so a program built against this runs on every later
 * liblxc.so.1. Members that Warren does not call are of one pointer type; only their place matters.
 * tests/ffi.rs compares sizes and offsets with installed headers.
 */
#ifndef WARREN_LXC_H
#define WARREN_LXC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct lxc_container;
typedef void (*lxc_unused)(void);
typedef int (*lxc_attach_exec_t)(void *payload);

/* Attach: 96 bytes on 64-bit machines in all of 5.0 to 7.0. */
struct lxc_groups_t {
	size_t size;
	gid_t *list;
};

struct lxc_attach_options_t {
	int attach_flags;
	int namespaces;
	long personality;
	char *initial_cwd;
	uid_t uid;
	gid_t gid;
	int env_policy;
	char **extra_env_vars;
	char **extra_keep_env;
	int stdin_fd;
	int stdout_fd;
	int stderr_fd;
	int log_fd;
	char *lsm_label;
	struct lxc_groups_t groups;
};

struct lxc_attach_command_t {
	char *program;
	char **argv;
};

/* Checkpoint and restore: 80 bytes. */
struct migrate_opts {
	char *directory;
	bool verbose;
	bool stop;
	char *predump_dir;
	char *pageserver_address;
	char *pageserver_port;
	bool preserves_inodes;
	char *action_script;
	bool disable_skip_in_flight;
	unsigned long long ghost_limit;
	unsigned long long features_to_check;
};

struct lxc_container {
	char *name;
	char *configfile;
	char *pidfile;
	void *slock;
	void *privlock;
	int numthreads;
	void *lxc_conf;
	char *error_string;
	int error_num;
	bool daemonize;
	char *config_path;
	lxc_unused is_defined;
	const char *(*state)(struct lxc_container *);
	lxc_unused is_running;
	bool (*freeze)(struct lxc_container *);
	bool (*unfreeze)(struct lxc_container *);
	pid_t (*init_pid)(struct lxc_container *);
	bool (*load_config)(struct lxc_container *, const char *file);
	bool (*start)(struct lxc_container *, int use_init, char *const argv[]);
	lxc_unused startl;
	bool (*stop)(struct lxc_container *);
	lxc_unused want_daemonize;
	lxc_unused want_close_all_fds;
	lxc_unused config_file_name;
	bool (*wait)(struct lxc_container *, const char *states, int seconds);
	bool (*set_config_item)(struct lxc_container *c, const char *key, const char *value);
	lxc_unused destroy;
	lxc_unused save_config;
	lxc_unused create;
	lxc_unused createl;
	lxc_unused rename;
	lxc_unused reboot;
	lxc_unused shutdown;
	lxc_unused clear_config;
	lxc_unused clear_config_item;
	lxc_unused get_config_item;
	lxc_unused get_running_config_item;
	lxc_unused get_keys;
	lxc_unused get_interfaces;
	lxc_unused get_ips;
	lxc_unused get_cgroup_item;
	bool (*set_cgroup_item)(struct lxc_container *, const char *subsys, const char *value);
	lxc_unused get_config_path;
	lxc_unused set_config_path;
	lxc_unused clone;
	int (*console_getfd)(struct lxc_container *, int *ttynum, int *ptxfd);
	lxc_unused console;
	int (*attach)(struct lxc_container *, lxc_attach_exec_t exec_function, void *payload,
		      struct lxc_attach_options_t *options, pid_t *attached);
	lxc_unused attach_run_wait;
	lxc_unused attach_run_waitl;
	lxc_unused snapshot;
	lxc_unused snapshot_list;
	lxc_unused snapshot_restore;
	lxc_unused snapshot_destroy;
	lxc_unused may_control;
	lxc_unused add_device_node;
	lxc_unused remove_device_node;
	lxc_unused attach_interface;
	lxc_unused detach_interface;
	lxc_unused checkpoint;
	lxc_unused restore;
	lxc_unused destroy_with_snapshots;
	lxc_unused snapshot_destroy_all;
	lxc_unused migrate;
	lxc_unused console_log;
	lxc_unused reboot2;
	lxc_unused mount;
	lxc_unused umount;
	lxc_unused seccomp_notify_fd;
	lxc_unused seccomp_notify_fd_active;
	int (*init_pidfd)(struct lxc_container *);
	int (*devpts_fd)(struct lxc_container *);
};

extern struct lxc_container *lxc_container_new(const char *name, const char *configpath);
extern int lxc_container_put(struct lxc_container *);
extern const char *lxc_get_version(void);
extern bool lxc_has_api_extension(const char *extension);
bool lxc_config_item_is_supported(const char *key);
extern int lxc_attach_run_command(void *payload);

#endif
