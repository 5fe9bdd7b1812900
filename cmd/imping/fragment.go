package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"imping/codec"
	"imping/engine/rescue"
)

// fragmentOptions are the flags of `imping fragment`.
type fragmentOptions struct {
	typ          string
	data, parity int
	segment      string
	json         bool
	out          string
	indexes      []int
	unverified   bool
	libec        string
}

func fragmentCommand() *cobra.Command {
	var o fragmentOptions
	cmd := &cobra.Command{
		Use:   "fragment",
		Short: "inspect, rebuild, decode and encode fragment archives that are plain files",
		Long: `Works on fragment archives without a cluster: .data files saved from disks, or made by
` + "`imping fragment encode`" + `. Which fragment a file is, its headers say; files may have any
name. Scheme and segment size are taken from the files' extended attributes (copy them
with ` + "`cp --preserve=xattr`" + ` or ` + "`rsync -X`" + `). Files without them need --ec-type, --data and
--parity: headers have neither of these numbers.

What is written is proved first: the object's MD5 is the one in its metadata, or an
archive that was not needed agrees with the others. What is wrong with a file is said on
standard error, and others take its place where they suffice.

Exit status: 0 done (inspect: nothing is wrong), 1 failed, and nothing was written.`,
		Example: `  imping fragment inspect saved/*.data
  imping fragment decode -o object saved/*.data
  imping fragment rebuild --index 3,7 -o new saved/*.data
  imping fragment encode --ec-type isa_l_rs_vand --data 4 --parity 2 -o new object
  imping fragment decode --ec-type jerasure_rs_vand --data 10 --parity 4 -o object new/frag-*`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&o.typ, "ec-type", "", "erasure code, as ec_type in swift.conf: "+strings.Join(codec.Types(), ", "))
	f.IntVar(&o.data, "data", 0, "number of data fragments, as ec_num_data_fragments in swift.conf")
	f.IntVar(&o.parity, "parity", 0, "number of parity fragments, as ec_num_parity_fragments in swift.conf")
	f.StringVar(&o.segment, "segment-size", "", "as ec_object_segment_size in swift.conf, in bytes or such as 1MiB (encode: default 1MiB)")

	inspect := &cobra.Command{
		Use: "inspect FILE...", Short: "print headers, metadata, and what is wrong with each file", Args: cobra.MinimumNArgs(1),
		Example: "  imping fragment inspect /srv/node/sdb/objects-1/117/*/*/*.data\n  imping fragment inspect --json saved/frag-0 | jq '.[].problems'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return fragmentRun(cmd, func(ctx context.Context, bar *fragmentBar) error {
				return fragmentInspect(ctx, &o, bar, args, os.Stdout)
			})
		},
	}
	inspect.Flags().BoolVar(&o.json, "json", false, "print a JSON list, a report for each file")

	decode := &cobra.Command{
		Use: "decode -o FILE ARCHIVE...", Short: "write the object that archives are of", Args: cobra.MinimumNArgs(1),
		Example: `  imping fragment decode -o object saved/*.data
  imping fragment decode --ec-type flat_xor_hd_3 --data 5 --parity 5 -o object frag-*`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return fragmentRun(cmd, func(ctx context.Context, bar *fragmentBar) error {
				ro, err := o.rescue(bar)
				if err != nil {
					return err
				}
				r, err := rescue.Decode(ctx, args, o.out, ro)
				return fragmentResult(bar, r, err)
			})
		},
	}
	decode.Flags().StringVarP(&o.out, "output", "o", "", "file to write")

	rebuild := &cobra.Command{
		Use: "rebuild --index N[,N..] -o DIR ARCHIVE...", Short: "write lost archives, made from others, as DIR/frag-N", Args: cobra.MinimumNArgs(1),
		Example: `  imping fragment rebuild --index 3 -o new saved/*.data
  imping fragment rebuild --index 0,13 --ec-type isa_l_rs_cauchy --data 10 --parity 4 -o new frag-*`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return fragmentRun(cmd, func(ctx context.Context, bar *fragmentBar) error {
				ro, err := o.rescue(bar)
				if err != nil {
					return err
				}
				r, err := rescue.Rebuild(ctx, args, o.out, o.indexes, ro)
				return fragmentResult(bar, r, err)
			})
		},
	}
	rebuild.Flags().IntSliceVar(&o.indexes, "index", nil, "fragments to rebuild (comma-separated)")
	rebuild.Flags().StringVarP(&o.out, "output", "o", "", "folder to write to; made if it is not there")
	must(rebuild.MarkFlagRequired("index"))
	for _, c := range []*cobra.Command{decode, rebuild} {
		c.Flags().BoolVar(&o.unverified, "unverified", false, "write what can not be proved, too, and say so")
	}

	encode := &cobra.Command{
		Use: "encode -o DIR FILE", Short: "write all archives of an object, as Swift's proxy would, as DIR/frag-N", Args: cobra.ExactArgs(1),
		Long: `Writes all archives of an object, byte for byte as Swift's proxy would with liberasurecode
1.6.2. With LIBERASURECODE_WRITE_LEGACY_CRC in the environment headers get the older
checksum, as they do there. The files have no metadata.`,
		Example: "  imping fragment encode --ec-type liberasurecode_rs_vand --data 10 --parity 4 -o new object",
		RunE: func(cmd *cobra.Command, args []string) error {
			return fragmentRun(cmd, func(ctx context.Context, bar *fragmentBar) error {
				return fragmentEncode(ctx, &o, bar, args[0])
			})
		},
	}
	encode.Flags().StringVarP(&o.out, "output", "o", "", "folder to write to; made if it is not there")
	encode.Flags().StringVar(&o.libec, "libec-version", "1.6.2", "version of liberasurecode that headers name")
	for _, c := range []*cobra.Command{decode, rebuild, encode} {
		must(c.MarkFlagRequired("output"))
	}
	cmd.AddCommand(inspect, rebuild, decode, encode)
	return cmd
}

// must is for flags that this file names itself.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// scheme is what the flags say: all of it, or nothing.
func (o *fragmentOptions) scheme() (codec.Scheme, error) {
	s := codec.Scheme{Type: o.typ, K: o.data, M: o.parity}
	if s != (codec.Scheme{}) && (s.Type == "" || s.K == 0 || s.M == 0) {
		return s, errors.New("--ec-type, --data and --parity are given all three, or none of them")
	}
	if s == (codec.Scheme{}) {
		return s, nil
	}
	_, err := codec.New(s)
	return s, err
}

func (o *fragmentOptions) segmentSize() (int, error) {
	if o.segment == "" {
		return 0, nil
	}
	n, err := parseSize(o.segment)
	if err == nil && n > 1<<31-1 {
		err = errors.New("liberasurecode takes segments of up to 2147483647 bytes")
	}
	if err != nil {
		return 0, fmt.Errorf("--segment-size %q: %w", o.segment, err)
	}
	return int(n), nil
}

func (o *fragmentOptions) rescue(bar *fragmentBar) (rescue.Options, error) {
	scheme, err := o.scheme()
	if err != nil {
		return rescue.Options{}, err
	}
	segment, err := o.segmentSize()
	return rescue.Options{Scheme: scheme, Segment: segment, Unverified: o.unverified, Progress: &bar.Progress}, err
}

// fragmentBar is the progress of one call, and what takes its display away before anything else is printed.
type fragmentBar struct {
	rescue.Progress
	hide func()
}

// fragmentRun runs what is to be done, shows how it gets on, and lets a signal end it cleanly.
func fragmentRun(cmd *cobra.Command, do func(context.Context, *fragmentBar) error) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var bar fragmentBar
	bar.hide = sync.OnceFunc(showBytes(os.Stderr, &bar.Progress))
	defer bar.hide()
	return do(ctx, &bar)
}

// fragmentResult says what was wrong with the files given, what was written and why it is right.
func fragmentResult(bar *fragmentBar, r *rescue.Result, err error) error {
	bar.hide()
	for _, p := range r.Problems {
		fmt.Fprintf(os.Stderr, "imping: %v\n", p)
	}
	if err != nil {
		return err
	}
	if r.Proof == rescue.Unproved {
		fmt.Fprintf(os.Stderr, "imping: NOT PROVED: %s\n", r.Doubt)
	}
	how := map[rescue.Proof]string{
		rescue.ProvedByETag:  "proved: the object's MD5 is the one in its metadata",
		rescue.ProvedBySpare: "proved: an archive that was not needed agrees with the others",
		rescue.Unproved:      "NOT PROVED",
	}[r.Proof]
	fmt.Printf("%s: %v, an object of %d bytes; %s\n", strings.Join(r.Written, ", "), r.Scheme, r.Size, how)
	return nil
}

func fragmentEncode(ctx context.Context, o *fragmentOptions, bar *fragmentBar, path string) error {
	scheme, err := o.scheme()
	if err != nil {
		return err
	}
	if scheme == (codec.Scheme{}) {
		return errors.New("encode needs --ec-type, --data and --parity")
	}
	eo := rescue.EncodeOptions{Scheme: scheme, Progress: &bar.Progress}
	if eo.Segment, err = o.segmentSize(); err != nil {
		return err
	}
	if eo.Libec, err = parseLibec(o.libec); err != nil {
		return fmt.Errorf("--libec-version %q: %w", o.libec, err)
	}
	if legacyCRC() {
		eo.CRC = codec.Legacy
	}
	written, err := rescue.Encode(ctx, path, o.out, eo)
	bar.hide()
	if err != nil {
		return err
	}
	fmt.Printf("%s .. %s: %v\n", written[0], written[len(written)-1], scheme)
	return nil
}

// parseLibec reads "1.6.2".
func parseLibec(s string) (uint32, error) {
	parts := strings.Split(s, ".")
	var v uint32
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || len(parts) != 3 {
			return 0, errors.New("not a version such as 1.6.2")
		}
		v = v<<8 | uint32(n)
	}
	if v == 0 {
		return 0, errors.New("headers of version 0 are valid for nobody")
	}
	return v, nil
}

func fragmentInspect(ctx context.Context, o *fragmentOptions, bar *fragmentBar, paths []string, w io.Writer) error {
	ro, err := o.rescue(bar)
	if err != nil {
		return err
	}
	var reports []*rescue.Report
	bad := 0
	for _, path := range paths {
		r, err := rescue.Inspect(ctx, path, ro)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if len(r.Problems) > 0 {
			bad++
		}
		reports = append(reports, r)
	}
	bar.hide()
	if o.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		err = enc.Encode(reports)
	} else {
		for i, r := range reports {
			if i > 0 {
				fmt.Fprintln(w)
			}
			err = errors.Join(err, printReport(w, r))
		}
	}
	if err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("something is wrong with %d of %d files", bad, len(paths))
	}
	return nil
}

func printReport(w io.Writer, r *rescue.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s: %d bytes", r.Path, r.Size)
	if r.Index >= 0 {
		fmt.Fprintf(t, ", fragment %d", r.Index)
	}
	if r.Scheme != "" {
		fmt.Fprintf(t, " of %s", r.Scheme)
	}
	if r.Object >= 0 {
		fmt.Fprintf(t, ", of an object of %d bytes in segments of %d", r.Object, r.Segment)
	}
	fmt.Fprintln(t)
	if r.MD5 != "" {
		fmt.Fprintf(t, "  MD5 %s\n", r.MD5)
	}
	for _, k := range slices.Sorted(maps.Keys(r.Metadata)) {
		fmt.Fprintf(t, "  %s\t%q\n", k, r.Metadata[k])
	}
	if len(r.Fragments) > 0 {
		fmt.Fprintln(t, "  segments\toffset\tindex\tpayload\tsegment\tbackend\tlibec\theader CRC\tpayload checksum")
	}
	for i := 0; i < len(r.Fragments); {
		f, next := r.Fragments[i], i+1
		// Equal headers, as nearly all are, are one line.
		for next < len(r.Fragments) && f.Header != nil && r.Fragments[next].Header != nil && *r.Fragments[next].Header == *f.Header {
			next++
		}
		segments := fmt.Sprint(f.Segment)
		if next > i+1 {
			segments = fmt.Sprintf("%d-%d", f.Segment, r.Fragments[next-1].Segment)
		}
		if h := f.Header; h != nil {
			checksum := h.Checksum
			if checksum == "" {
				checksum = "none"
			}
			fmt.Fprintf(t, "  %s\t%d\t%d\t%d\t%d\t%d (%s)\t%s\t%s\t%s\n", segments, f.Offset, h.Index, h.Payload, h.Segment,
				h.Backend, h.BackendVersion, h.LibecVersion, h.HeaderCRC, checksum)
		} else {
			fmt.Fprintf(t, "  %s\t%d\t%s\n", segments, f.Offset, f.Error)
		}
		i = next
	}
	for _, p := range r.Problems {
		fmt.Fprintf(t, "  WRONG: %s\n", p)
	}
	return t.Flush()
}

// showBytes starts a bar on f if that is a terminal, else a line now and then. What is returned ends it, and returns when all is drawn.
func showBytes(f *os.File, g *rescue.Progress) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	begin := time.Now()
	rate := func() float64 { return float64(g.Done.Load()) / max(time.Since(begin).Seconds(), 0.001) }
	go func() {
		defer close(ended)
		if !term.IsTerminal(int(f.Fd())) {
			tick := time.NewTicker(lineEvery)
			defer tick.Stop()
			for {
				select {
				case <-quit:
					return
				case <-tick.C:
					fmt.Fprintf(f, "%s of %s, %s/s\n", size(float64(g.Done.Load())), size(float64(g.Total.Load())), size(rate()))
				}
			}
		}
		progress := mpb.New(mpb.WithOutput(f), mpb.WithWidth(64), mpb.WithAutoRefresh())
		bar := progress.AddBar(0, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.CountersKibiByte("% .1f of % .1f ")),
			mpb.AppendDecorators(decor.Percentage(), decor.Any(func(decor.Statistics) string {
				left := float64(g.Total.Load()-g.Done.Load()) / max(rate(), 1)
				return fmt.Sprintf("  %s/s  ETA %v", size(rate()), time.Duration(left*float64(time.Second)).Round(time.Second))
			})))
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for running := true; running; {
			select {
			case <-quit:
				running = false
			case <-tick.C:
			}
			bar.SetTotal(g.Total.Load(), false)
			bar.SetCurrent(g.Done.Load())
		}
		bar.SetTotal(-1, true)
		progress.Wait()
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// legacyCRC says whether liberasurecode would write the older checksum into headers.
func legacyCRC() bool {
	env := os.Getenv("LIBERASURECODE_WRITE_LEGACY_CRC")
	return env != "" && env != "0"
}
