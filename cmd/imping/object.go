package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imping/codec"
	"imping/engine/object"
	"imping/engine/rescue"
	"imping/netfast"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// objectOptions are the flags of all of `imping object`.
type objectOptions struct {
	swiftConf, swiftDir, policy string
	replication, json, updates  bool
	connTimeout, nodeTimeout    time.Duration

	headers                      []string // put and post
	contentType, etag, timestamp string
	output, span                 string // get
}

func objectCommand() *cobra.Command {
	var o objectOptions
	cmd := &cobra.Command{
		Use:   "object",
		Short: "store and read objects of erasure-code policies without a proxy",
		Long: `object does what Swift's proxy does for one object of an erasure-code policy, straight with
the object servers that the ring names: it encodes and decodes, writes in two phases with
a quorum, takes handoffs for devices that are down, and goes on reading when one dies. Run
it where swift.conf and the rings are, and the object servers can be reached; it asks nobody
whether you may.

Containers hear nothing of it unless --update-container is given: what is put is in no
listing, what is deleted stays in it. Names are /account/container/object, not quoted.

Exit status: 0 done, 1 failed (what too few devices have confirmed is named, and what was
written to standard output by then is no object), 2 stored, but not on all devices (a
reconstructor will see to that).`,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.swiftConf, "swift-conf", policy.DefaultPath, "swift.conf to read")
	f.StringVar(&o.swiftDir, "swift-dir", "", "folder of the rings (default that of swift.conf)")
	f.StringVar(&o.policy, "policy", "", "storage policy, by name or index (may be left out where there is one erasure-code policy)")
	f.BoolVar(&o.replication, "replication-network", false, "speak to the ring's replication addresses, not those for clients")
	f.DurationVar(&o.connTimeout, "conn-timeout", 500*time.Millisecond, "for a connection")
	f.DurationVar(&o.nodeTimeout, "node-timeout", 10*time.Second, "for a server that makes no progress")
	f.BoolVar(&o.json, "json", false, "print what came of it as JSON")

	put := &cobra.Command{
		Use:   "put NAME FILE",
		Short: "store a file, or standard input (-), as an object",
		Example: `  imping object put /AUTH_test/photos/cat.jpg cat.jpg --policy gold
  imping object put /AUTH_test/photos/cat.jpg cat.jpg --update-container --header "X-Delete-After: 3600"
  tar c . | imping object put /AUTH_test/backup/today.tar - --header "X-Object-Meta-Host: db1" --content-type application/x-tar`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.do(args[0], func(ctx context.Context, c *object.Client, pol *policy.Policy) error {
				return o.put(ctx, c, pol, args[0], args[1])
			})
		},
	}
	put.Flags().StringArrayVar(&o.headers, "header", nil, `metadata, as "X-Object-Meta-Color: blue" (may be given again)`)
	put.Flags().StringVar(&o.contentType, "content-type", "application/octet-stream", "the object's content type")
	put.Flags().StringVar(&o.etag, "etag", "", "MD5 that the object must have")
	put.Flags().StringVar(&o.timestamp, "timestamp", "", "time of the object, in seconds since 1970 (default now)")

	get := &cobra.Command{
		Use:   "get NAME",
		Short: "read an object, or a part of it",
		Long: `get writes an object to standard output or, with -o, to a file that gets its name when all of
it was read and has the object's MD5. With a part nothing is compared with the MD5. Archives
that spoil it are named, and with -o the object is read once more without them.`,
		Example: `  imping object get /AUTH_test/photos/cat.jpg -o cat.jpg
  imping object get /AUTH_test/logs/today --policy gold --range -1000`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.do(args[0], func(ctx context.Context, c *object.Client, pol *policy.Policy) error {
				return o.get(ctx, c, pol, args[0])
			})
		},
	}
	get.Flags().StringVarP(&o.output, "output", "o", "", "write to this file")
	get.Flags().StringVar(&o.span, "range", "", "first-last, first- or -length, in bytes")

	head := &cobra.Command{
		Use:     "head NAME",
		Short:   "say what is known of an object",
		Example: `  imping object head /AUTH_test/photos/cat.jpg --json`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.do(args[0], func(ctx context.Context, c *object.Client, pol *policy.Policy) error {
				found, err := c.Find(ctx, pol, args[0])
				if err != nil {
					return err
				}
				if found.Newer != "" {
					fmt.Fprintf(os.Stderr, "%s is not the newest version: %s\n", args[0], found.Newer)
				}
				o.print(found)
				return nil
			})
		},
	}
	post := &cobra.Command{
		Use:     "post NAME",
		Short:   "replace an object's metadata",
		Example: `  imping object post /AUTH_test/photos/cat.jpg --header "X-Object-Meta-Color: black"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.do(args[0], func(ctx context.Context, c *object.Client, pol *policy.Policy) error {
				fields, at, err := o.fields()
				if err != nil {
					return err
				}
				return c.Post(ctx, pol, args[0], at, fields)
			})
		},
	}
	post.Flags().StringArrayVar(&o.headers, "header", nil, `metadata, as "X-Object-Meta-Color: blue" (may be given again)`)
	post.Flags().StringVar(&o.contentType, "content-type", "", "another content type")
	post.Flags().StringVar(&o.timestamp, "timestamp", "", "time of the metadata, in seconds since 1970 (default now)")

	remove := &cobra.Command{
		Use:     "delete NAME",
		Short:   "delete an object",
		Example: `  imping object delete /AUTH_test/photos/cat.jpg`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.do(args[0], func(ctx context.Context, c *object.Client, pol *policy.Policy) error {
				_, at, err := o.fields()
				if err != nil {
					return err
				}
				return c.Delete(ctx, pol, args[0], at)
			})
		},
	}
	remove.Flags().StringVar(&o.timestamp, "timestamp", "", "time of the deletion, in seconds since 1970 (default now)")
	for _, c := range []*cobra.Command{put, post, remove} {
		c.Flags().BoolVar(&o.updates, "update-container", false, "have the container servers told, as a proxy does; the container must be there")
	}
	cmd.AddCommand(put, get, head, post, remove)
	return cmd
}

// do gives a verb a client and the object's policy.
func (o *objectOptions) do(name string, verb func(ctx context.Context, c *object.Client, pol *policy.Policy) error) error {
	if err := checkObjectName(name); err != nil {
		return err
	}
	swift, err := policy.Load(o.swiftConf)
	if err != nil {
		return err
	}
	pol, err := o.choose(swift)
	if err != nil {
		return err
	}
	dir := o.swiftDir
	if dir == "" {
		dir = filepath.Dir(o.swiftConf)
	}
	c := &object.Client{
		Swift: swift, Dir: dir, Replication: o.replication, UpdateContainers: o.updates, ConnTimeout: o.connTimeout, NodeTimeout: o.nodeTimeout,
		HTTP: netfast.NewClient(netfast.Options{ConnTimeout: o.connTimeout, NodeTimeout: o.nodeTimeout, UserAgent: fmt.Sprintf("imping %d", os.Getpid())}),
	}
	if legacyCRC() {
		c.CRC = codec.Legacy
	}
	defer c.HTTP.Close()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = verb(ctx, c, pol)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// choose is the policy that is named, or the only one there can be.
func (o *objectOptions) choose(swift *policy.Swift) (*policy.Policy, error) {
	if pol, err := pointPolicy(swift, o.policy); pol != nil || err != nil {
		return pol, err
	}
	var list []*policy.Policy
	var names []string
	for _, p := range swift.Policies {
		if p.Type == policy.ErasureCoding {
			list, names = append(list, p), append(names, p.String())
		}
	}
	switch len(list) {
	case 1:
		return list[0], nil
	case 0:
		return nil, fmt.Errorf("%s has no erasure-code policy", swift.Path)
	}
	return nil, fmt.Errorf("say with --policy which one the object's container has: %s", strings.Join(names, ", "))
}

// fields are the headers and the time that flags give.
func (o *objectOptions) fields() (list []netfast.Field, at timestamp.Timestamp, err error) {
	for _, h := range o.headers {
		key, value, ok := strings.Cut(h, ":")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return nil, at, fmt.Errorf("--header %q: not Name: value", h)
		}
		switch lower := strings.ToLower(key); {
		case strings.HasPrefix(lower, "x-backend-"), strings.HasPrefix(lower, "x-object-sysmeta-ec-"), strings.HasPrefix(lower, "x-container-"), strings.HasPrefix(lower, "x-delete-at-"),
			lower == "content-length", lower == "transfer-encoding", lower == "expect", lower == "x-timestamp", lower == "etag", lower == "content-type", lower == "host", lower == "connection":
			return nil, at, fmt.Errorf("--header %s: not a client's to give", key)
		case (lower == "x-delete-at" || lower == "x-delete-after") && !o.updates:
			return nil, at, fmt.Errorf("--header %s: give --update-container, too: else the expirer never hears of it, and what is past stays on the disks", key)
		}
		list = append(list, netfast.Field{Key: key, Value: strings.TrimSpace(value)})
	}
	if o.contentType != "" {
		list = append(list, netfast.Field{Key: "Content-Type", Value: o.contentType})
	}
	if o.timestamp != "" {
		if at, err = timestamp.Parse(o.timestamp); err != nil {
			return nil, at, fmt.Errorf("--timestamp: %w", err)
		}
	}
	return list, at, nil
}

func (o *objectOptions) put(ctx context.Context, c *object.Client, pol *policy.Policy, name, file string) error {
	options := object.PutOptions{Size: -1, ETag: o.etag}
	var err error
	if options.Fields, options.Timestamp, err = o.fields(); err != nil {
		return err
	}
	in := os.Stdin
	if file != "-" {
		if in, err = os.Open(file); err != nil {
			return err
		}
		defer in.Close()
		st, err := in.Stat()
		if err != nil {
			return err
		}
		if st.Mode().IsRegular() {
			options.Size = st.Size()
		}
		if st.IsDir() {
			return fmt.Errorf("%s: is a directory", file)
		}
	}
	moved := newTransfer(max(0, options.Size))
	stored, err := c.Put(ctx, pol, name, moved.reader(in), options)
	moved.end()
	if err != nil {
		return err
	}
	if o.json {
		printLine(os.Stdout, map[string]any{"object": name, "policy": pol.Index, "policy_name": pol.Name, "timestamp": stored.Timestamp.Internal(),
			"size": stored.Size, "etag": stored.ETag, "nodes": stored.Nodes, "failed": append([]string{}, stored.Failed...)})
	} else {
		fmt.Printf("%s: %d bytes, MD5 %s, at %s, on %d of %d devices\n", name, stored.Size, stored.ETag, stored.Timestamp.Internal(), len(stored.Nodes), pol.Replicas())
		for _, why := range stored.Failed {
			fmt.Fprintf(os.Stderr, "not on %s\n", why)
		}
	}
	if len(stored.Failed) > 0 {
		return &exitError{status: exitLeft}
	}
	return nil
}

func (o *objectOptions) get(ctx context.Context, c *object.Client, pol *policy.Policy, name string) error {
	if o.output == "" && o.json {
		return errors.New("--json needs -o: standard output is the object's")
	}
	found, err := c.Find(ctx, pol, name)
	if err != nil {
		return err
	}
	first, n, err := spanOf(o.span, found.Size)
	if err != nil {
		return fmt.Errorf("--range %s: %w", o.span, err)
	}
	if found.Newer != "" {
		fmt.Fprintf(os.Stderr, "%s is not the newest version: %s\n", name, found.Newer)
	}
	var out io.Writer
	var publish func() error
	abort := func() {}
	defer func() { abort() }()
	moved := newTransfer(n)
	begin := func() (io.Writer, error) {
		if _, renewed := out.(*rescue.File); out != nil && !renewed {
			return nil, errors.New("what was written is no object: a file that -o names would have been begun anew")
		}
		abort()
		to, done, undo, err := o.open()
		if err != nil {
			return nil, err
		}
		out, publish, abort = to, done, undo
		moved.n.Store(0)
		return moved.writer(out), nil
	}
	var bad []string
	if first == 0 && n == found.Size {
		bad, err = found.CopyWhole(ctx, begin)
	} else if w, why := begin(); why != nil {
		err = why
	} else {
		err = found.Copy(ctx, w, first, n)
	}
	moved.end()
	for _, why := range bad {
		fmt.Fprintf(os.Stderr, "bad archive of %s: %s\n", name, why)
	}
	if err != nil {
		return err
	}
	if err := publish(); err != nil {
		return err
	}
	if o.json {
		o.print(found)
	}
	return nil
}

// open is where an object goes: standard output, a file that gets its name in the end or, where -o names a device or a pipe, that.
func (o *objectOptions) open() (out io.Writer, publish func() error, abort func(), err error) {
	if o.output == "" {
		return os.Stdout, func() error { return nil }, func() {}, nil
	}
	if st, err := os.Stat(o.output); err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		f, err := os.OpenFile(o.output, os.O_WRONLY, 0)
		if err != nil {
			return nil, nil, nil, err
		}
		return f, f.Close, func() { f.Close() }, nil
	}
	f, err := rescue.Create(o.output)
	if err != nil {
		return nil, nil, nil, err
	}
	return f, func() error { return rescue.Publish(f) }, f.Abort, nil
}

// spanOf reads a range as clients write it.
func spanOf(text string, size int64) (first, n int64, err error) {
	text = strings.TrimPrefix(strings.TrimSpace(text), "bytes=")
	if text == "" {
		return 0, size, nil
	}
	from, to, ok := strings.Cut(text, "-")
	ua, err1 := strconv.ParseUint(from, 10, 63) // no signs
	ub, err2 := strconv.ParseUint(to, 10, 63)
	a, b := int64(ua), int64(ub)
	switch {
	case !ok || from == "" && to == "" || from != "" && err1 != nil || to != "" && err2 != nil:
		return 0, 0, errors.New("not first-last, first- or -length")
	case from == "":
		first, n = max(0, size-b), min(size, b)
	case to == "":
		first, n = a, size-a
	default:
		first, n = a, min(size-1, b)-a+1
	}
	if first >= size || n < 1 {
		return 0, 0, fmt.Errorf("the object has %d bytes", size)
	}
	return first, n, nil
}

// print says what is known of an object.
func (o *objectOptions) print(found *object.Object) {
	fields := map[string]string{}
	for _, f := range found.Fields {
		fields[f.Key] = f.Value
	}
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetEscapeHTML(false)
		enc.Encode(map[string]any{"object": found.Name, "policy": found.Policy.Index, "policy_name": found.Policy.Name, "partition": found.Partition,
			"timestamp": found.Data.Internal(), "newest": found.Newest.Internal(), "size": found.Size, "etag": found.ETag, "metadata": fields})
		return
	}
	fmt.Printf("Content-Length: %d\nEtag: %s\nX-Timestamp: %s\n", found.Size, found.ETag, found.Newest.Normal())
	for _, f := range found.Fields {
		if !strings.EqualFold(f.Key, "X-Timestamp") {
			fmt.Printf("%s: %s\n", f.Key, f.Value)
		}
	}
}

// transfer shows on standard error how an object comes or goes.
type transfer struct {
	n     atomic.Int64
	begin time.Time
	shown *display
}

func newTransfer(all int64) *transfer {
	t := &transfer{begin: time.Now()}
	t.shown = show(os.Stderr, gauge{
		what: "bytes", every: lineEvery, count: func() (int64, int64) { return t.n.Load(), all },
		amounts: func() string { return size(float64(t.n.Load())/max(time.Since(t.begin).Seconds(), 0.001)) + "/s" },
		elapsed: func() time.Duration { return time.Since(t.begin) },
	})
	return t
}

func (t *transfer) end() { t.shown.Stop() }

type countedReader struct {
	io.Reader
	t *transfer
}

func (r countedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.t.n.Add(int64(n))
	return n, err
}

type countedWriter struct {
	io.Writer
	t *transfer
}

func (w countedWriter) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	w.t.n.Add(int64(n))
	return n, err
}

func (t *transfer) reader(r io.Reader) io.Reader { return countedReader{r, t} }
func (t *transfer) writer(w io.Writer) io.Writer { return countedWriter{w, t} }
