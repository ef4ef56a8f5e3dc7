/*
 * Looks a name up with the C library's getaddrinfo. Linked with musl, whose resolver asks all
 * nameservers at once from one unconnected socket and ignores most options of resolv.conf.
 *
 * usage: resolve NAME; exit status 0 found, 2 not found.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct addrinfo hints, *found;
	int error;

	if (argc != 2) {
		fprintf(stderr, "usage: resolve NAME\n");
		return 1;
	}
	memset(&hints, 0, sizeof(hints));
	hints.ai_socktype = SOCK_STREAM;
	error = getaddrinfo(argv[1], NULL, &hints, &found);
	if (error) {
		fprintf(stderr, "resolve %s: %s\n", argv[1], gai_strerror(error));
		return 2;
	}
	freeaddrinfo(found);
	return 0;
}
