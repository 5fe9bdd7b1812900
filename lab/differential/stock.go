package differential

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"imping/lab/real"
)

//go:embed stock.py
var stockPython string

// stock is Swift's own code: a process that stays, because the imports of Swift take
// longer than a pass.
type stock struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	output  string // file of what the programs print
	cluster *real.Cluster
}

func startStock(c *real.Cluster, output string) (*stock, error) {
	s := &stock{cluster: c, output: output}
	s.cmd = exec.Command(real.Python, "-P", "-c", stockPython)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd.Stderr = log
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start Swift: %w", err)
	}
	return s, nil
}

// Close ends the process, if it has not been killed.
func (s *stock) Close() error {
	s.in.Close()
	var ended *exec.ExitError
	if err := s.cmd.Wait(); !errors.As(err, &ended) {
		return err
	}
	return nil
}

// ask gives up with ctx, and kills then.
func (s *stock) ask(ctx context.Context, question, answer any) error {
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	line, err := json.Marshal(question)
	if err != nil {
		return err
	}
	_, err = s.in.Write(append(line, '\n'))
	if err == nil {
		line, err = s.out.ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, answer)
	}
	if err != nil {
		return fmt.Errorf("cannot ask Swift (its words are in %s): %w", s.output, errors.Join(err, ctx.Err()))
	}
	return nil
}

// pass is one pass of Swift's reconstructor on a node.
func (s *stock) pass(ctx context.Context, node int) error {
	var status int
	err := s.ask(ctx, map[string]any{
		"argv":   []string{"/usr/bin/swift-object-reconstructor", s.cluster.ReplicationConf(node), "once"},
		"output": s.output,
	}, &status)
	if err == nil && status != 0 {
		err = fmt.Errorf("stock's reconstructor on node %d ended with status %d: see %s", node, status, s.output)
	}
	return err
}

// suffixHashes are those of one partition on one device: by suffix and fragment index.
type suffixHashes map[string]map[string]string

// partitionHashes are what hashes.pkl says, and what Swift makes of the files.
type partitionHashes [2]suffixHashes

// hashes are those of all partitions, by device/policy/partition. Asking cleans up: it comes last.
func (s *stock) hashes(ctx context.Context) (map[string]partitionHashes, error) {
	devices := map[string][]string{}
	for _, n := range s.cluster.Nodes() {
		for _, d := range s.cluster.Devices(n) {
			folder := filepath.Dir(s.cluster.DevicePath(d))
			devices[folder] = append(devices[folder], d)
		}
	}
	var policies []int
	for _, p := range s.cluster.Policies() {
		if p.ECType != "" {
			policies = append(policies, p.Index)
		}
	}
	var answer map[string]map[string]map[string]partitionHashes
	if err := s.ask(ctx, map[string]any{"devices": devices, "policies": policies}, &answer); err != nil {
		return nil, err
	}
	all := map[string]partitionHashes{}
	for dev, of := range answer {
		for policy, of := range of {
			for part, h := range of {
				n, err := strconv.Atoi(policy)
				if err != nil {
					return nil, err
				}
				all[fmt.Sprintf("%s/%d/%s", dev, n, part)] = h
			}
		}
	}
	return all, nil
}
