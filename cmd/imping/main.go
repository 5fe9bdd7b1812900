// Command imping rebuilds lost erasure-coded fragment archives of OpenStack Swift. The
// name it is called by decides what it is: under the name of a Swift daemon it takes that
// daemon's words and place. It holds flags and exit statuses, nothing else.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses of imping's own verbs (rule 36).
const (
	exitDone   = 0 // all was done
	exitFailed = 1 // could not run
	exitLeft   = 2 // ran, and something was left
)

// exitError carries an exit status up to main; with a nil err nothing more is printed.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

// memProfileRate is 0: of each call stack that the runtime samples for a heap profile it keeps a record for ever, a slow growth in a
// daemon that nobody asks for one. --profile mem sets a rate of its own.
const memProfileRate = 0

func main() {
	// A console that goes away (`| head`) must not end a pass: writes fail, no more.
	signal.Ignore(syscall.SIGPIPE)
	// Fragments are off the heap; what is on it is small and short-lived. Go's default
	// collects a heap of 4 MiB over and over, a tenth of an idle pass.
	debug.SetGCPercent(400)
	runtime.MemProfileRate = memProfileRate
	if filepath.Base(os.Args[0]) == swiftReconstructor {
		os.Exit(asReconstructor(os.Args))
	}
	if filepath.Base(os.Args[0]) == swiftServer {
		os.Exit(asServer(os.Args))
	}
	if filepath.Base(os.Args[0]) == swiftRelinker {
		os.Exit(asRelinker(os.Args))
	}
	os.Exit(run())
}

// run is imping under its own name.
func run() int {
	root := &cobra.Command{
		Use:   "imping",
		Short: "rebuild lost erasure-coded fragment archives of OpenStack Swift",
		Long: `imping rebuilds lost erasure-coded fragment archives of OpenStack Swift, byte for
byte, and pushes them to the devices that miss them, and serves objects as Swift's
object server does. It reads Swift's own configuration and rings and works beside
stock Swift daemons.

Exit status: 0 all done, 1 could not run, 2 ran but something was left.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetVersionTemplate(versionText())
	root.AddCommand(reconstructCommand(), versionCommand(), demoCommand(), labCommand(), benchCommand(), fragmentCommand(), soakCommand(), serveCommand(), checkCommand(), relinkCommand(), verifyCommand(), objectCommand())
	root.SetHelpCommand(helpCommand(root))
	root.CompletionOptions.HiddenDefaultCmd = true
	began := false
	noteRuns(root, &began)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	status := exitFailed
	var e *exitError
	if errors.As(err, &e) {
		status = e.status
		if e.err == nil {
			return status
		}
	}
	fmt.Fprintf(os.Stderr, "imping: %v\n", err)
	if !began { // the words were wrong
		if !cmd.HasAvailableSubCommands() {
			fmt.Fprintf(os.Stderr, "usage: %s\n", cmd.UseLine())
		}
		fmt.Fprintf(os.Stderr, "`%s --help` says more\n", cmd.CommandPath())
	}
	return status
}

// helpCommand is cobra's, but that a command which is not there is an error.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "say more about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = fmt.Errorf("unknown command %q for %q", rest[0], cmd.CommandPath())
			}
			if err != nil {
				return err
			}
			return cmd.Help()
		},
	}
}

// noteRuns has began set when a command is run: its words and flags were good.
func noteRuns(cmd *cobra.Command, began *bool) {
	if do := cmd.RunE; do != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return do(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		noteRuns(sub, began)
	}
}
