/* SPDX-License-Identifier: MIT-0 */
/*
 * fuzz_main.c - drives a harness where there is no libFuzzer: runs it on a corpus, then on what it makes of that at random.
 *
 * Takes libFuzzer's own arguments, as far as they are used here: files and directories of the corpus, -runs=NUMBER (0: just
 * the corpus, once), -seed=NUMBER, -max_total_time=SECONDS.  Unlike libFuzzer it does not learn what reaches new code.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "input.h"

#define LONGEST 4096u
#define CORPUS_MAX 4096u
#define CHANGES 6u

struct sample {
	uint8_t *bytes;
	size_t len;
};

static struct sample corpus[CORPUS_MAX];
static unsigned samples;
static uint64_t random_state;

static uint32_t random_below(size_t bound)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)((random_state >> 32) % bound);
}

/* ---- The corpus --------------------------------------------------------------------------------------------------*/

static void fail(const char *path)
{
	perror(path);
	exit(2);
}

static void read_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct sample *sample = &corpus[samples];

	if (!file || samples == CORPUS_MAX)
		fail(path);
	sample->bytes = new_bytes(LONGEST);
	sample->len = fread(sample->bytes, 1, LONGEST, file);
	fclose(file);
	samples++;
}

static void read_path(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	char name[4096];

	if (!directory) {
		if (errno != ENOTDIR)
			fail(path);
		read_file(path);
		return;
	}
	while ((entry = readdir(directory)))
		if (entry->d_name[0] != '.' &&
		    snprintf(name, sizeof(name), "%s/%s", path, entry->d_name) < (int)sizeof(name))
			read_file(name);
	closedir(directory);
}

/* ---- Changes -----------------------------------------------------------------------------------------------------*/

static void change_byte(struct sample *sample)
{
	static const uint8_t telling[] = { 0, 1, 4, 6, 17, 44, 0x45, 0x60, 0x7f, 0x80, 0xff };
	uint8_t *at = &sample->bytes[random_below(sample->len)];

	switch (random_below(4)) {
	case 0:
		*at ^= (uint8_t)(1u << random_below(8));
		break;
	case 1:
		*at = telling[random_below(sizeof(telling))];
		break;
	case 2:
		*at = (uint8_t)(*at + random_below(9) - 4);
		break;
	default:
		*at = (uint8_t)random_below(256);
	}
}

static void insert_or_remove(struct sample *sample)
{
	const size_t at = random_below(sample->len), rest = sample->len - at;
	const size_t number = 1 + random_below(random_below(4) ? 8 : 64);

	if (random_below(2)) {
		sample->len = random_below(2) || number >= rest ? at : sample->len - number;
		if (sample->len != at)
			memmove(sample->bytes + at, sample->bytes + at + number, rest - number);
	} else if (sample->len + number <= LONGEST) {
		memmove(sample->bytes + at + number, sample->bytes + at, rest);
		sample->len += number;
	}
}

/* What is behind some place in another sample. */
static void splice(struct sample *sample)
{
	const struct sample *other = &corpus[random_below(samples)];
	const size_t at = random_below(sample->len), from = other->len ? random_below(other->len) : 0;
	const size_t number = other->len - from < LONGEST - at ? other->len - from : LONGEST - at;

	memcpy(sample->bytes + at, other->bytes + from, number);
	sample->len = at + number;
}

static void change(struct sample *sample)
{
	for (unsigned i = random_below(CHANGES); i > 0 && sample->len > 0; i--) {
		const uint32_t kind = random_below(16);

		if (kind < 12)
			change_byte(sample);
		else if (kind < 15)
			insert_or_remove(sample);
		else
			splice(sample);
	}
}

/* ---- Runs --------------------------------------------------------------------------------------------------------*/

static bool run_changed(struct sample *scratch)
{
	const struct sample *chosen = &corpus[random_below(samples)];

	memcpy(scratch->bytes, chosen->bytes, chosen->len);
	scratch->len = chosen->len;
	change(scratch);
	return LLVMFuzzerTestOneInput(scratch->bytes, scratch->len) == 0;
}

int main(int argc, char **argv)
{
	unsigned long runs = 1000000000, seed = 1, seconds = 1000000000, done = 0;
	struct sample scratch = { new_bytes(LONGEST), 0 };
	const time_t start = time(NULL);

	for (int i = 1; i < argc; i++)
		if (sscanf(argv[i], "-runs=%lu", &runs) != 1 && sscanf(argv[i], "-seed=%lu", &seed) != 1 &&
		    sscanf(argv[i], "-max_total_time=%lu", &seconds) != 1 && argv[i][0] != '-')
			read_path(argv[i]);
	if (samples == 0)
		corpus[samples++] = (struct sample){ new_bytes(LONGEST), 0 };
	random_state = 0x9e3779b97f4a7c15u ^ seed;
	for (unsigned i = 0; i < samples; i++)
		LLVMFuzzerTestOneInput(corpus[i].bytes, corpus[i].len);
	while (done < runs && (done % 1024 || (unsigned long)(time(NULL) - start) < seconds) && run_changed(&scratch))
		done++;
	printf("samples: %u\nstat::number_of_executed_units: %lu\npassed: %lu\n", samples, done + samples,
	       fuzz_passed);
	for (unsigned i = 0; i < samples; i++)
		free_bytes(corpus[i].bytes);
	free_bytes(scratch.bytes);
	return 0;
}
