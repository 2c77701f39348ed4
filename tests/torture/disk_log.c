/* Logs what a process does to the files of one folder, so that a power cut can be played back.
 *
 * Preloaded with LD_PRELOAD; DISK_LOG names the log and DISK_FOLDER the folder. Each record is
 *
 *     operation (1 byte)  inode (8)  offset (8)  length (8)  length bytes
 *
 * in the byte order of the machine. A write is logged before it is done, a sync after it succeeded. One lock holds
 * both together, so that the order of the log is the order of the disk.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE = 1, TRUNCATE, SYNC, LINK, UNLINK, RENAME, SYNC_FOLDER };
enum { FILES = 65536 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char watched[FILES];
static int log_file = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_watched(const char *path) {
    const char *folder = getenv("DISK_FOLDER");
    /* The index of the WAL is shared memory, and is made anew from the WAL. */
    size_t length = strlen(path);
    return folder && !strncmp(path, folder, strlen(folder)) && (length < 4 || strcmp(path + length - 4, "-shm"));
}

static void append(char operation, uint64_t inode, uint64_t offset, const void *data, uint64_t length) {
    char header[25];
    if (log_file < 0)
        log_file = REAL(open)(getenv("DISK_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    header[0] = operation;
    memcpy(header + 1, &inode, 8);
    memcpy(header + 9, &offset, 8);
    memcpy(header + 17, &length, 8);
    if (REAL(write)(log_file, header, sizeof header) < 0 || (length && REAL(write)(log_file, data, length) < 0))
        abort();
}

static uint64_t inode_of(int file) {
    struct stat status;
    return fstat(file, &status) ? 0 : status.st_ino;
}

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode) {
    if (!is_watched(path))
        return real(path, flags, mode);
    pthread_mutex_lock(&lock);
    int is_new = (flags & O_CREAT) && access(path, F_OK);
    int file = real(path, flags, mode);
    if (file >= 0 && file < FILES)
        watched[file] = 1;
    if (file >= 0 && is_new)
        append(LINK, inode_of(file), 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return file;
}

#define DEFINE_OPEN(name)                                                                                              \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                      \
        va_end(rest);                                                                                                  \
        return opened(REAL(name), path, flags, mode);                                                                  \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int close(int file) {
    if (file >= 0 && file < FILES)
        watched[file] = 0;
    return REAL(close)(file);
}

static int is_logged(int file) { return file >= 0 && file < FILES && watched[file]; }

#define LOGGED(file, record, call)                                                                                     \
    if (!is_logged(file))                                                                                              \
        return call;                                                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    record;                                                                                                            \
    __typeof__(call) result = call;                                                                                    \
    pthread_mutex_unlock(&lock);                                                                                       \
    return result;

ssize_t pwrite(int file, const void *data, size_t length, off_t offset) {
    LOGGED(file, append(WRITE, inode_of(file), offset, data, length), REAL(pwrite)(file, data, length, offset))
}

ssize_t pwrite64(int file, const void *data, size_t length, off64_t offset) {
    LOGGED(file, append(WRITE, inode_of(file), offset, data, length), REAL(pwrite64)(file, data, length, offset))
}

ssize_t write(int file, const void *data, size_t length) {
    LOGGED(file, append(WRITE, inode_of(file), lseek(file, 0, SEEK_CUR), data, length), REAL(write)(file, data, length))
}

int ftruncate(int file, off_t size) {
    LOGGED(file, append(TRUNCATE, inode_of(file), size, "", 0), REAL(ftruncate)(file, size))
}

int ftruncate64(int file, off64_t size) {
    LOGGED(file, append(TRUNCATE, inode_of(file), size, "", 0), REAL(ftruncate64)(file, size))
}

static int synced(int (*real)(int), int file) {
    struct stat status;
    if (!is_logged(file))
        return real(file);
    pthread_mutex_lock(&lock);
    int result = real(file);
    if (!result && !fstat(file, &status))
        append(S_ISDIR(status.st_mode) ? SYNC_FOLDER : SYNC, status.st_ino, 0, "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int file) { return synced(REAL(fsync), file); }
int fdatasync(int file) { return synced(REAL(fdatasync), file); }

int unlink(const char *path) {
    if (!is_watched(path))
        return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int result = REAL(unlink)(path);
    if (!result)
        append(UNLINK, 0, 0, path, strlen(path));
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    if (!is_watched(from) && !is_watched(to))
        return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(from, to);
    if (!result) {
        size_t length = strlen(from) + 1 + strlen(to);
        char *both = malloc(length + 1);
        strcpy(both, from);
        strcpy(both + strlen(from) + 1, to);
        append(RENAME, 0, 0, both, length);
        free(both);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
