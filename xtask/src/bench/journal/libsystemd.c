/* Reads every field of every entry of a folder of journal files with libsystemd, as its users do, and prints how many
 * entries there were and the CPU seconds of this process. A peer to measure against; declares what it needs of
 * sd-journal.h itself, so that no header has to be installed. */

#include <stddef.h>
#include <stdio.h>
#include <sys/resource.h>

typedef struct sd_journal sd_journal;
int sd_journal_open_directory(sd_journal **journal, const char *path, int flags);
int sd_journal_next(sd_journal *journal);
int sd_journal_set_data_threshold(sd_journal *journal, size_t size);
int sd_journal_enumerate_data(sd_journal *journal, const void **data, size_t *length);
void sd_journal_restart_data(sd_journal *journal);

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int count, char **words) {
    sd_journal *journal = NULL;
    unsigned long entries = 0, bytes = 0;
    int found;
    if (count != 2 || sd_journal_open_directory(&journal, words[1], 0) < 0) {
        fprintf(stderr, "usage: libsystemd FOLDER\n");
        return 1;
    }
    /* Whole values, as ours. */
    sd_journal_set_data_threshold(journal, 0);
    double begin = cpu_seconds();
    while ((found = sd_journal_next(journal)) > 0) {
        const void *data;
        size_t length;
        sd_journal_restart_data(journal);
        while ((found = sd_journal_enumerate_data(journal, &data, &length)) > 0)
            bytes += length;
        if (found < 0)
            break;
        entries++;
    }
    if (found < 0) {
        fprintf(stderr, "libsystemd: error %d after %lu entries\n", found, entries);
        return 1;
    }
    printf("{\"entries\": %lu, \"bytes\": %lu, \"cpu_s\": %.4f}\n", entries, bytes, cpu_seconds() - begin);
    return 0;
}
