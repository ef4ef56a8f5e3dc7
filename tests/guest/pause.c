// Does nothing until it is asked to end, as the first process of a pod's sandbox: a process with number 1
// is ended only by signals that it handles.
#include <signal.h>
#include <unistd.h>

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

int main(void)
{
	signal(SIGINT, end);
	signal(SIGTERM, end);
	for (;;)
		pause();
}
